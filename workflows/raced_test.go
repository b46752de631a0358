//go:build race

package workflows_test

// raced: the race detector makes a run five times as slow.
const raced = true
