//go:build !(linux && (amd64 || arm64))

package trace

// Possible tells whether programs can be traced on this system.
const Possible = false

// Main is never called where it is not possible.
func Main() int { panic("programs can be traced on Linux only") }
