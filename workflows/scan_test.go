package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// Entries implements activities.Applied.
func (s *stage) Entries(context.Context) ([]activities.Entry, error) {
	var entries []activities.Entry
	for _, signed := range s.applied {
		spec, err := signed.Peek()
		if err != nil {
			return nil, err
		}
		c := spec.Credential
		var issuer memory.IssuerConfig
		if err := c.Issuer.Decode(&issuer); err != nil {
			return nil, err
		}
		entries = append(entries, activities.Entry{
			Named: activities.Named{Inventory: spec.Inventory, Credential: c.Name}, Account: c.Issuer.Account, Principals: issuer.Principals(), RotateEvery: c.RotateEvery,
		})
	}
	return entries, nil
}

// SpecIn implements activities.Applied.
func (s *stage) SpecIn(_ context.Context, c activities.Named) (inventory.SignedSpec, error) {
	for _, signed := range s.applied {
		if spec, err := signed.Peek(); err == nil && spec.Credential.Name == c.Credential && spec.Inventory == c.Inventory {
			return signed, nil
		}
	}
	return inventory.SignedSpec{}, activities.ErrLeft
}

// ListWorkflow implements activities.Runs.
func (s *stage) ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	answer := &workflowservice.ListWorkflowExecutionsResponse{}
	for id := range s.runs {
		answer.Executions = append(answer.Executions, &workflowpb.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
	}
	return answer, nil
}

// DescribeWorkflowExecution implements activities.Runs.
func (s *stage) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if run, ok := s.runs[id]; ok {
		return run, nil
	}
	return nil, serviceerror.NewNotFound("no such run")
}

// QueryWorkflow implements activities.Runs.
func (s *stage) QueryWorkflow(_ context.Context, id, _, _ string, _ ...any) (converter.EncodedValue, error) {
	return s.query(id)
}

// TerminateWorkflow implements activities.Runs.
func (s *stage) TerminateWorkflow(_ context.Context, id, _, _ string, _ ...any) error {
	return s.terminate(id)
}

// scanned runs a scan in the stage's World.
func (s *stage) scanned(in workflows.ScanInput) workflows.ScanReport {
	s.t.Helper()
	s.env.RegisterWorkflow(workflows.Scan)
	s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: workflows.ScanID + "/test", TaskQueue: workflows.TaskQueue})
	if in.Accounts == nil {
		in.Accounts = []string{"edge"}
	}
	s.env.ExecuteWorkflow(workflows.Scan, in)
	require.NoError(s.t, s.env.GetWorkflowError())
	var report workflows.ScanReport
	require.NoError(s.t, s.env.GetWorkflowResult(&report))
	return report
}

// found says of each key who looks after it.
func found(keys []policy.ScannedKey) map[string]string {
	seen := map[string]string{}
	for _, k := range keys {
		seen[k.KeyID] = strings.TrimSuffix(string(k.Custody)+", "+k.MarkText(), ", ")
	}
	return seen
}

func TestScanInAWorld(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const day = 24 * time.Hour
	for _, name := range []string{"payments-batch", "payments-forgotten", "admin", "secret-team"} {
		s.world.SetPrincipal(name, memory.Strict())
	}
	s.world.AddKey("payments-api", "stranger", s.began.Add(-time.Hour))
	s.world.AddKey("payments-batch", "batch-1", s.began.Add(-400*day))
	s.world.AddKey("payments-batch", "batch-2", s.began.Add(-day))
	s.world.AddKey("admin", "admin-1", s.began.Add(-day))
	ctx := context.Background()
	require.NoError(t, s.world.Issuer("payments-batch").(providers.Disabler).Disable(ctx, key.Ref{Principal: "payments-batch", KeyID: "batch-1"}))
	minted, err := s.world.Issuer("payments-forgotten").Issue(ctx, providers.IssueRequest{Token: "a-token"})
	require.NoError(t, err)
	// Of a rotation that was terminated between mint and stage.
	_, err = s.world.Store("payments-api").PutMetadata(ctx, key.Metadata{Intents: []key.Intent{{
		Rotation: "terminated", Ordinal: 1, At: s.began, Within: policy.MintWithin, Known: []string{"key-old", "stranger"},
	}}})
	require.NoError(t, err)
	settings := memory.Strict()
	settings.Slots = 5
	s.world.SetPrincipal("payments-api", settings)
	orphan, err := s.world.Issuer("payments-api").Issue(ctx, providers.IssueRequest{Token: policy.Token("terminated", 1)})
	require.NoError(t, err)
	ledger := len(s.world.Ledger())

	s.applied = []inventory.SignedSpec{s.spec()}
	report := s.scanned(workflows.ScanInput{})
	assert.Equal(t, map[string]string{
		"key-old": "managed", "stranger": "unmanaged", orphan.Key.KeyID: "orphaned",
		"batch-1": "unmanaged, disabled-alive, over-age", "batch-2": "unmanaged", minted.Key.KeyID: "orphaned",
	}, found(report.Keys))
	assert.Equal(t, []workflows.AccountScan{{Account: "edge", Type: "memory", Keys: 6, OutOfBounds: 2}}, report.Accounts, "principals out of bounds are counted, and not looked at")
	assert.Equal(t, 1, report.Credentials)
	assert.Equal(t, policy.Count{"managed": 1, "unmanaged": 3, "orphaned": 2, "disabled-alive": 1, "over-age": 1}, report.Counts)
	assert.Equal(t, policy.Orphaned, report.Keys[0].Custody, "those that need somebody come first")
	assert.Len(t, s.world.Ledger(), ledger, "nothing was changed")
	assert.Contains(t, report.Markdown(), "stranger")
}

func TestScanOfMoreThanAPage(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	settings := memory.Strict()
	settings.Slots = 0
	for p := range 8 {
		name := fmt.Sprintf("payments-%d", p)
		s.world.SetPrincipal(name, settings)
		for n := range 400 {
			s.world.AddKey(name, fmt.Sprintf("%d-%d", p, n), s.began)
		}
	}
	report := s.scanned(workflows.ScanInput{Specs: []inventory.SignedSpec{s.spec()}})
	assert.Equal(t, 3201, report.Accounts[0].Keys)
	assert.Equal(t, 3, report.Pages)
	seen := map[string]bool{}
	for page := range 4 {
		value, err := s.env.QueryWorkflow(workflows.KeysName, page)
		require.NoError(t, err)
		var keys []policy.ScannedKey
		require.NoError(t, value.Get(&keys))
		for _, k := range keys {
			seen[k.KeyID] = true
		}
	}
	assert.Len(t, seen, 3201)
}

func TestScansThatCannotSeeEverything(t *testing.T) {
	t.Parallel()
	t.Run("an account that refuses", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.world.Fail(memory.OpPrincipals, fmt.Errorf("%w: ListUsers", providers.ErrDenied), 1)
		report := s.scanned(workflows.ScanInput{})
		assert.Contains(t, report.Accounts[0].Problem, "denied: ListUsers")
		assert.Empty(t, report.Keys)
	})
	t.Run("trouble that passes", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.world.Throttle(memory.OpPrincipals, 2)
		s.world.Fail(memory.OpList, errors.New("connection reset"), 1)
		report := s.scanned(workflows.ScanInput{Specs: []inventory.SignedSpec{s.spec()}})
		assert.Empty(t, report.Accounts[0].Problem)
		assert.Equal(t, map[string]string{"key-old": "managed"}, found(report.Keys))
	})
	t.Run("an account that there is not", func(t *testing.T) {
		t.Parallel()
		report := newStage(t).scanned(workflows.ScanInput{Accounts: []string{"nowhere"}})
		assert.Contains(t, report.Accounts[0].Problem, "no such account")
	})
	t.Run("a store that cannot be looked at", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.world.Fail(memory.OpMetadata, fmt.Errorf("%w: no right", providers.ErrDenied), 1)
		report := s.scanned(workflows.ScanInput{Specs: []inventory.SignedSpec{s.spec()}})
		assert.Equal(t, map[string]string{"key-old": "managed, not-looked"}, found(report.Keys))
		assert.Contains(t, report.Keys[0].Advice, "no right")
	})
	t.Run("a spec that claims a principal out of bounds", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.credential.Store.Config = []byte(`{"type":"memory","account":"vault","path":"elsewhere"}`)
		report := s.scanned(workflows.ScanInput{Specs: []inventory.SignedSpec{s.spec()}})
		assert.Contains(t, report.Keys[0].Advice, "outside of bounds")
	})
	t.Run("a credential in a rotation", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.applied = []inventory.SignedSpec{s.spec()}
		s.runs = map[string]*workflowservice.DescribeWorkflowExecutionResponse{workflows.WorkflowID("payments-api"): {
			WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING},
		}}
		s.began = s.began.Add(-100 * 24 * time.Hour)
		s.world.AddKey("payments-api", "minted-meanwhile", s.env.Now())
		report := s.scanned(workflows.ScanInput{})
		assert.Equal(t, map[string]string{"key-old": "managed", "minted-meanwhile": "unmanaged"}, found(report.Keys))
	})
	t.Run("two thousand credentials and more", func(t *testing.T) {
		t.Parallel()
		long(t)
		s := newStage(t)
		for n := range 4001 {
			s.credential.Name = fmt.Sprintf("c-%04d", n)
			s.credential.Issuer.Config = fmt.Appendf(nil, `{"type":"memory","account":"edge","principal":"payments-%04d"}`, n)
			s.applied = append(s.applied, s.spec())
		}
		report := s.scanned(workflows.ScanInput{ByName: true})
		assert.Equal(t, 4001, report.Credentials)
	})
	t.Run("only those that nobody looks after, without a look at stores", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		s.listen()
		s.world.SetPrincipal("payments-batch", memory.Strict())
		s.world.AddKey("payments-batch", "batch-1", s.began)
		report := s.scanned(workflows.ScanInput{Specs: []inventory.SignedSpec{s.spec()}, ByName: true, Forsaken: true})
		assert.Equal(t, map[string]string{"batch-1": "unmanaged"}, found(report.Keys))
		assert.Equal(t, 1, report.Counts["managed"])
		assert.NotContains(t, s.asked(), memory.OpMetadata)
	})
}
