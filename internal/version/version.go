// Package version tells which build this is.
package version

import (
	"regexp"
	"runtime/debug"
)

// Build is set by the linker for releases: -X github.com/keyturn/keyturn/internal/version.Build=v1.2.3.
var Build string

// unfit is what the build ID of a deployment version may not contain.
var unfit = regexp.MustCompile(`[^A-Za-z0-9_.+-]`)

// ID names the build: the release, else the commit, else "dev". Workers of the same ID run the same
// workflow code.
func ID() string {
	if Build != "" {
		return unfit.ReplaceAllString(Build, "-")
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	id, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			id = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	switch {
	case id != "":
		return id + dirty
	case info.Main.Version != "" && info.Main.Version != "(devel)":
		return unfit.ReplaceAllString(info.Main.Version, "-")
	}
	return "dev"
}
