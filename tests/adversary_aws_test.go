package tests

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// On AWS, too, a rogue workflow with the signed spec destroys, disables, delivers and mints nothing, neither in the overlap
// nor after the rotation has ended; and the worker's log has each reason.
func TestAdversaryOnAWS(t *testing.T) {
	t.Parallel()
	moto.Need(t)
	double := prepareAWS(t, "--overlap", "10m")
	s := trusting(t, double.stage)
	retiring := double.key("AWSCURRENT")
	mallory, rotation := s.client(), workflows.WorkflowID(credential)
	s.rotate()
	status := s.await(workflows.PhaseOverlap)
	spec := s.captured(mallory)
	require.NoError(t, mallory.TerminateWorkflow(t.Context(), rotation, "", "out of the way"))
	keys, stages := double.aws.AccessKeys(credential), double.aws.Stages(secretName)
	require.Len(t, keys, 2)

	rogue := s.rogue(mallory, workflows.AccountQueue("aws"))
	subject := activities.Rotation{Spec: spec, ID: status.Rotation, Retiring: status.Retiring, Incoming: status.Incoming}
	swapped := subject
	swapped.Retiring, swapped.Incoming = swapped.Incoming, swapped.Retiring
	orphan := subject
	orphan.ID = "never-was"
	lies := []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "olga", Verified: true, Groups: []string{"owners"}, At: time.Now()}}
	other := subject
	other.Spec = s.spec(s.ann, func(spec *inventory.Spec) {
		spec.Inventory, spec.Credential.Approvals = "another-team", inventory.Approvals{Revoke: &inventory.Approval{Count: 1, Trust: inventory.TrustAny}}
	})
	wave := func(r activities.Rotation, k key.Ref) activities.WaveInput {
		return activities.WaveInput{Rotation: r, Key: k, Wave: "x"}
	}
	for _, attack := range []struct {
		name, activity string
		input          any
		says           string
	}{
		{"disable on approvals that nobody signed", "Disable", activities.RevokeInput{Rotation: subject, Approvals: lies}, "overlap"},
		{"destroy at once", "Destroy", activities.RevokeInput{Rotation: subject, Approvals: lies}, "not-disabled"},
		{"disable the key in use", "Disable", activities.RevokeInput{Rotation: swapped, Approvals: lies}, "not-ours"},
		{"destroy the key in use", "Destroy", activities.RevokeInput{Rotation: swapped, Approvals: lies}, "not-ours"},
		{"discard the key in use", "Discard", swapped, ""},
		{"discard for a rotation that never was", "Discard", orphan, ""},
		{"a way back that is none", "RestoreLabels", swapped, "minted by a rotation"},
		{"deliver a key of nobody", "DeliverWave", wave(subject, key.Ref{KeyID: "AKIAOFSOMEBODYELSE00", StoreVersion: status.Incoming.StoreVersion}), "not one of"},
		{"mint once more", "Issue", activities.IssueInput{Rotation: subject, Ordinal: 2}, "slots"},
		{"disable by a spec of another inventory", "Disable", activities.RevokeInput{Rotation: other}, "belongs to inventory"},
	} {
		mark := len(s.log())
		got := rogue.try(rotation, attack.activity, attack.input)
		if attack.activity != "Discard" {
			assert.NotContains(t, got.Result, `"ok":true`, "%s: %s", attack.name, got.Result)
			assert.Contains(t, got.Error+got.Result, attack.says, attack.name)
			s.logged(mark, attack.says)
		}
		assert.Equal(t, keys, double.aws.AccessKeys(credential), attack.name)
		assert.Equal(t, stages, double.aws.Stages(secretName), attack.name)
	}
	rogue.Stop()
	s.harmless()

	// The attacker is gone. IAM has two slots, so that a person destroys the key that the interrupted rotation retired.
	_, err := double.aws.IAM().DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: aws.String(credential), AccessKeyId: &retiring.ID})
	require.NoError(t, err)
	s.rewrite(s.place.Inventory, "overlap: 10m", "overlap: 5s")
	s.rotate() // which has nothing left to do but to record that
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	require.Len(t, double.aws.AccessKeys(credential), 1)
	s.honestly(workflows.Completed)
	assert.Len(t, double.aws.AccessKeys(credential), 1)
	assert.Equal(t, map[string][]string{s.report().Incoming.StoreVersion: {"AWSCURRENT"}}, double.aws.Stages(secretName), "the dead key's version is gone, too")
}
