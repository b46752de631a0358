package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/version"
	"github.com/keyturn/keyturn/workflows"
)

// prepared is what setup found and did.
type prepared struct {
	Namespace string `json:"namespace"`
	// Retention is how long histories are kept.
	Retention             inventory.Duration `json:"retention"`
	SearchAttributesAdded []string           `json:"searchAttributesAdded"`
	CurrentBuild          string             `json:"currentBuild"`
	// Sweep is the ID of its Schedule; SweepCreated: it was not there before; SweepChanged: it ran at other times.
	Sweep        string             `json:"sweep"`
	SweepCreated bool               `json:"sweepCreated"`
	SweepChanged bool               `json:"sweepChanged,omitempty"`
	SweepEvery   inventory.Duration `json:"sweepEvery,omitzero"`
	Warnings     []string           `json:"warnings,omitempty"`
}

// shortRetention is below what an auditor, or somebody who looks into last month's incident, needs.
const shortRetention = 30 * 24 * time.Hour

func newSetup(t *terminal) *cobra.Command {
	var buildID string
	var wait time.Duration
	every := inventory.Duration(namespace.SweepEvery)
	cmd := &cobra.Command{
		Use: "setup", Short: "Prepares a Temporal namespace; may be run again", Args: noArgs,
		Long: `Sees that the namespace is there, registers the search attributes, makes a build of the worker current, also
before any of its workers exists, and makes the Schedule of Sweep. It may be run again: what is there already is
left as it is, but for what a flag asks for.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every.Std() < time.Minute {
				return usage("--sweep-every %s: write a minute or more", every)
			}
			c, ns, err := t.connectWithin(cmd.Context(), wait)
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			build := buildID
			if !cmd.Flags().Changed("build-id") {
				build = ""
			}
			done, err := setUp(ctx, c, ns, build, every, cmd.Flags().Changed("sweep-every"))
			if err != nil {
				return err
			}
			return t.show(done, func(w io.Writer) { printPrepared(w, done) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&buildID, "build-id", version.ID(), "build to make current; without the flag only if none is")
	f.DurationVar(&wait, "wait", 0, "wait this long for a server that does not answer yet")
	f.TextVar(&every, "sweep-every", every, "how often Sweep runs; without the flag a Schedule that is there stays as it is")
	return cmd
}

// connectAgain is how long a server that does not answer yet is left alone.
const connectAgain = 500 * time.Millisecond

// connectWithin reaches Temporal, and for so long goes on trying while nobody answers there.
func (t *terminal) connectWithin(ctx context.Context, wait time.Duration) (c client.Client, namespace string, err error) {
	patient, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, 10*time.Second)
		c, namespace, err = t.connect(attempt)
		done()
		if err == nil || trouble(err) == "" {
			return c, namespace, err
		}
		select {
		case <-patient.Done():
			if wait > 0 {
				err = exit(exitTimedOut, err)
			}
			return c, namespace, err
		case <-time.After(connectAgain):
		}
	}
}

// setUp prepares a namespace. asked: how often Sweep runs was asked for, so that a Schedule that is there is changed.
func setUp(ctx context.Context, c client.Client, ns, build string, every inventory.Duration, asked bool) (prepared, error) {
	done := prepared{Namespace: ns, Sweep: workflows.SweepScheduleID}
	retention, err := namespace.Retention(ctx, c, ns)
	if err != nil {
		return done, err
	}
	done.Retention = inventory.Duration(retention)
	if retention < shortRetention {
		done.Warnings = append(done.Warnings, fmt.Sprintf("the history of a rotation is deleted %s after its end: keep audit.file in the worker configuration, or keep histories longer: temporal operator namespace update --namespace %s --retention 90d",
			done.Retention, ns))
	}
	if done.SearchAttributesAdded, err = namespace.Register(ctx, c, ns); err != nil {
		return done, err
	}
	if done.CurrentBuild = build; build != "" {
		err = namespace.MakeCurrent(ctx, c, build)
	} else {
		done.CurrentBuild, err = namespace.MakeFirstCurrent(ctx, c, version.ID())
	}
	if err != nil {
		return done, err
	}
	if done.SweepCreated, err = namespace.ScheduleSweep(ctx, c, every.Std()); err != nil {
		return done, err
	}
	sweep, err := namespace.LookAtSweep(ctx, c)
	if err != nil {
		return done, err
	}
	if asked && sweep.Every != every.Std() {
		if err := namespace.ChangeSweep(ctx, c, every.Std()); err != nil {
			return done, err
		}
		sweep.Every, done.SweepChanged = every.Std(), true
	}
	done.SweepEvery = inventory.Duration(sweep.Every)
	if sweep.Paused {
		done.Warnings = append(done.Warnings, "the Schedule of Sweep is paused, and is left so: "+sweep.Note)
	}
	return done, nil
}

func printPrepared(w io.Writer, done prepared) {
	sweep := "there already"
	switch {
	case done.SweepCreated:
		sweep = "made"
	case done.SweepChanged:
		sweep = "changed"
	}
	if done.SweepEvery > 0 {
		sweep += ", every " + done.SweepEvery.String()
	}
	columns(w,
		[]string{"namespace", done.Namespace + ", histories kept for " + done.Retention.String()},
		[]string{"search attributes", fmt.Sprintf("%d added, %d there", len(done.SearchAttributesAdded), len(namespace.Attributes())-len(done.SearchAttributesAdded))},
		[]string{"current build", done.CurrentBuild},
		[]string{"Schedule " + done.Sweep, sweep})
	for _, warning := range done.Warnings {
		fmt.Fprintf(w, "\nnote: %s\n", warning)
	}
}
