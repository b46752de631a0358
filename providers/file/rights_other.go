//go:build !linux

package file

import "os"

// keepAttributes keeps none here.
func keepAttributes(*os.File, *os.Root, string) error { return nil }
