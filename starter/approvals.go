package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/workflows"
)

// awaited is a decision that a rotation waits for.
type awaited struct {
	Credential string          `json:"credential"`
	Owner      string          `json:"owner,omitempty"`
	Phase      workflows.Phase `json:"phase"`
	Gate       inventory.Gate  `json:"gate,omitempty"`
	// Since is when the gate opened; when no worker says so, when the rotation began.
	Since time.Time `json:"since"`
	// Have are the approvals that count now. Until is when its evidence is gathered anew if nobody has decided.
	Until    time.Time          `json:"until,omitzero"`
	Have     int                `json:"have"`
	Needs    inventory.Approval `json:"needs,omitzero"`
	Run      string             `json:"run"`
	Evidence string             `json:"evidence,omitempty"`
	// Approve is the command that approves it, Signal the input of the signal that does; empty where that takes a signature.
	Approve string `json:"approve,omitempty"`
	Signal  string `json:"signal,omitempty"`
	// Problem is why no more is known of it.
	Problem string `json:"problem,omitempty"`
}

func newApprovals(t *terminal) *cobra.Command {
	var group, owner string
	cmd := &cobra.Command{
		Use: "approvals", Short: "Shows every gate that waits for a decision, oldest first", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, _, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := approvals(ctx, c, t.warn)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(a awaited) bool {
				others := group != "" && len(a.Needs.From) > 0 && !slices.Contains(a.Needs.From, group)
				return others || owner != "" && a.Owner != owner
			})
			return t.showAwaited(list)
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "only what a member of this approver group may decide")
	cmd.Flags().StringVar(&owner, "owner", "", "only credentials of this owner")
	return cmd
}

// approvals asks every rotation that waits at a gate.
func approvals(ctx context.Context, c client.Client, tell func(string)) ([]awaited, error) {
	running, err := runningRotations(ctx, c)
	if err != nil {
		return nil, err
	}
	list := []awaited{}
	for _, r := range running {
		if slices.Contains([]workflows.Phase{workflows.PhaseSignoff, workflows.PhaseRevokeGate, workflows.PhaseHoldGate}, r.Phase) {
			list = append(list, awaited{Credential: r.Credential, Owner: r.Owner, Phase: r.Phase, Since: r.Since, Run: r.Run})
		}
	}
	if len(list) > 0 {
		tellOfSilence(ctx, c, workflows.TaskQueue, tell)
	}
	var group errgroup.Group
	group.SetLimit(writers)
	for i := range list {
		group.Go(func() error {
			s, err := status(ctx, c, list[i].Credential, untold)
			list[i].complete(s.Status, err)
			return nil
		})
	}
	_ = group.Wait()                                                                                // each error is in its line
	list = slices.DeleteFunc(list, func(a awaited) bool { return a.Gate == "" && a.Problem == "" }) // its gate has closed since
	slices.SortFunc(list, func(a, b awaited) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Credential, b.Credential))
	})
	return list, ctx.Err()
}

// complete adds what the rotation itself says.
func (a *awaited) complete(s workflows.Status, err error) {
	if err != nil {
		a.Problem = err.Error()
		return
	}
	g := s.Gate
	if g == nil {
		return
	}
	a.Gate, a.Since, a.Until, a.Have, a.Needs, a.Run, a.Evidence = g.Gate, g.OpenedAt, s.Until, len(g.Valid(time.Now())), g.Needs, g.Run, g.Evidence
	a.Approve, a.Signal = g.Command(a.Credential), g.Signal()
}

func (t *terminal) showAwaited(list []awaited) error {
	return t.show(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "Nothing waits for a decision.")
			return
		}
		rows := [][]string{{"SINCE", "CREDENTIAL", "OWNER", "GATE", "APPROVALS", "FROM", "TRUST", "APPROVE WITH"}}
		for _, a := range list {
			if a.Problem != "" {
				rows = append(rows, []string{clock(a.Since), a.Credential, a.Owner, string(a.Phase), "unknown", "", "", ""})
				continue
			}
			rows = append(rows, []string{
				clock(a.Since), a.Credential, a.Owner, string(a.Gate), fmt.Sprintf("%d of %d", a.Have, a.Needs.Count),
				cmp.Or(strings.Join(a.Needs.From, ", "), "anybody"), string(a.Needs.Trust), a.Approve,
			})
		}
		columns(w, rows...)
		for _, a := range list {
			if a.Problem != "" {
				fmt.Fprintf(w, "\nnote: %s: %s\n", a.Credential, plain(a.Problem))
			}
		}
	})
}
