package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/schedule"
)

// completesWithin bounds what a shell waits for when somebody presses a key: Temporal may be away.
const completesWithin = 3 * time.Second

// complete has the shell complete what a command takes: names of credentials, gates, formats.
func (t *terminal) complete(root *cobra.Command) {
	fixed := func(words ...string) cobra.CompletionFunc {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return words, cobra.ShellCompDirectiveNoFileComp
		}
	}
	words := map[string]cobra.CompletionFunc{
		"gate":    fixed(string(inventory.GateSignoff), string(inventory.GateRevoke), string(inventory.GateHold)),
		"key":     fixed(), // no file
		"suspect": fixed(suspectRetiring, suspectIncoming, suspectBoth),
	}
	named := []string{"plan", "rotate", "retire", "emergency", "status", "approve", "reject", "extend", "rollback", "audit"}
	for _, cmd := range root.Commands() {
		if slices.Contains(named, cmd.Name()) {
			cmd.ValidArgsFunction = t.credentials
		}
		for flag, complete := range words {
			if cmd.Flags().Lookup(flag) != nil {
				_ = cmd.RegisterFlagCompletionFunc(flag, complete) // it fails for one that is not there, or has one
			}
		}
	}
	_ = root.RegisterFlagCompletionFunc("output", func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
		if slices.Contains(csvToo, cmd.Name()) {
			return fixed("table", "json", "yaml", "csv")(cmd, given, begun)
		}
		return fixed("table", "json", "yaml")(cmd, given, begun)
	})
}

// credentials are the names that a command takes: those of the file that it names, or else those that were applied. Where nobody answers
// there are none.
func (t *terminal) credentials(cmd *cobra.Command, given []string, _ string) (names []string, then cobra.ShellCompDirective) {
	then = cobra.ShellCompDirectiveNoFileComp
	if len(given) > 0 && cmd.Name() != "emergency" {
		return nil, then
	}
	defer func() {
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(given, name) })
	}()
	if file := cmd.Flags().Lookup("file"); file != nil && file.Value.String() != "" {
		inv, err := t.load(file.Value.String())
		if err != nil {
			return nil, then
		}
		for _, c := range inv.Credentials {
			names = append(names, c.Name)
		}
		return names, then
	}
	ctx, cancel := context.WithTimeout(context.Background(), completesWithin)
	defer cancel()
	c, ns, err := t.connect(ctx)
	if err != nil {
		return nil, then
	}
	defer c.Close()
	applied, err := schedule.New(c, ns, catalog()).List(ctx, "", "")
	if err != nil {
		return nil, then
	}
	for _, one := range applied {
		names = append(names, one.Credential)
	}
	return names, then
}
