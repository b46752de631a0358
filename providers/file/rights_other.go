//go:build !linux

package file

import "os"

// held cannot be told here before the rename tells.
func held(*os.Root, string) error { return nil }

// keepAttributes keeps none here.
func keepAttributes(*os.File, *os.Root, string) error { return nil }
