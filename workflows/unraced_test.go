//go:build !race

package workflows_test

const raced = false
