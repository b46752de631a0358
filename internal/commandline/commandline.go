// Package commandline is what keyturn's programs have in common as command lines.
package commandline

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Strict passes every wrong use of a command line through usage, which gives it its exit code: an unknown command, a flag or an
// argument that is not known. A command that only has others below it shows its help when none of them is named.
func Strict(root *cobra.Command, usage func(error) error) {
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "help" {
			cmd.Args = helped
		}
	}
	strict(root, usage)
}

func strict(cmd *cobra.Command, usage func(error) error) {
	for _, below := range cmd.Commands() {
		strict(below, usage)
	}
	takes := cmd.Args
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		takes = unknown
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if takes == nil {
			return nil
		}
		if err := takes(cmd, args); err != nil {
			return usage(err)
		}
		return nil
	}
}

// helped refuses help about a command that there is not.
func helped(cmd *cobra.Command, args []string) error {
	about, rest, err := cmd.Root().Find(args)
	if err != nil || !about.HasSubCommands() {
		return err
	}
	return unknown(about, rest)
}

// unknown refuses the name of a command that there is not, and says which one may be meant.
func unknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := ""
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		meant = "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return fmt.Errorf("unknown command %q%s; see: %s --help", args[0], meant, cmd.CommandPath())
}
