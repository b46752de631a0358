package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/workflows"
)

// The names in KeyturnIndex.
const (
	indexBody       = "body"
	indexSigner     = "signer"
	indexGeneration = "generation"
	indexNotAfter   = "not-after"
	indexEvery      = "rotate-every"
	indexKey        = "key"
	indexIssued     = "issued"
	indexExpires    = "expires"
	indexRotated    = "rotated"
	indexDebt       = "debt"
	indexPurpose    = "purpose"
	indexPolicy     = "policy"
	indexScope      = "scope"
	indexClaim      = "claim"
	indexDependsOn  = "depends-on"
	// indexWhole says that Details are in the index whole, so that the memo does not count.
	indexWhole = "whole"
)

// Bounds of what search attributes take: of one value, and of all of a list together.
const (
	maxValue = 255
	maxIndex = 2000
)

// memoName is the one field of a Schedule's memo, with Details, and of its action's, with the state.
const memoName = "keyturn"

const (
	pageSize  = 1000
	atOnce    = 8
	maxKeyID  = 200
	lookTwice = 3
)

// List returns the Schedules of an inventory, of all when it is empty, sorted by credential. query is one of
// Temporal's visibility, such as KeyturnOwner = 'payments@example.com'; empty for no other condition.
func (s *Schedules) List(ctx context.Context, inventory, query string) ([]Entry, error) {
	ours := workflows.AttributeCredential.GetName() + " IS NOT NULL"
	if query != "" {
		ours += " AND (" + query + ")"
	}
	var entries []Entry
	var stale []int
	var page []byte
	for {
		answer, err := s.list(ctx, ours, page)
		if err != nil {
			return nil, fmt.Errorf("listing Schedules: %w", err)
		}
		for _, listed := range answer.GetSchedules() {
			in, credential, ours := Split(listed.GetScheduleId())
			if !ours || inventory != "" && in != inventory {
				continue
			}
			e := Entry{Inventory: in, Credential: credential}
			info := listed.GetInfo()
			e.Paused, e.Note, e.NextRuns = info.GetPaused(), info.GetNotes(), nextRuns(info.GetPaused(), info.GetFutureActionTimes())
			if !e.read(listed.GetSearchAttributes(), listed.GetMemo()) {
				stale = append(stale, len(entries))
			}
			entries = append(entries, e)
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	if err := s.refresh(ctx, entries, stale); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return strings.Compare(a.Credential+"/"+a.Inventory, b.Credential+"/"+b.Inventory)
	})
	return entries, nil
}

// Verify asks for each Schedule itself, instead of taking the index's word: somebody else may have written to one. It
// puts into entries what it finds.
func (s *Schedules) Verify(ctx context.Context, entries []Entry) error {
	all := make([]int, len(entries))
	for i := range all {
		all[i] = i
	}
	return s.refresh(ctx, entries, all)
}

// refresh asks for the Schedules whose memo is older than their spec: Temporal's workflow-backed Schedules
// take no other memo than the one they were created with.
func (s *Schedules) refresh(ctx context.Context, entries []Entry, stale []int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, i := range stale {
		group.Go(func() error {
			described, err := s.Describe(ctx, entries[i].Inventory, entries[i].Credential)
			switch {
			case errors.Is(err, ErrNotFound):
				return nil // it was deleted since it was listed
			case err == nil, errors.Is(err, ErrUnreadable): // the entry says so; the others do not suffer from it
				entries[i] = described.Entry
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// Describe asks for one Schedule. ErrNotFound; ErrUnreadable, with what there is but for a spec, and the Problem.
func (s *Schedules) Describe(ctx context.Context, in, credential string) (Described, error) {
	answer, err := s.describe(ctx, ID(in, credential))
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return Described{}, fmt.Errorf("describing the Schedule of %q: %w", credential, ErrNotFound)
	}
	if err != nil {
		return Described{}, fmt.Errorf("describing the Schedule of %q: %w", credential, err)
	}
	d := Described{
		Entry: Entry{Inventory: in, Credential: credential},
		token: answer.GetConflictToken(), raw: answer.GetSchedule(),
	}
	state := answer.GetSchedule().GetState()
	d.Paused, d.Note, d.NextRuns = state.GetPaused(), state.GetNotes(), nextRuns(state.GetPaused(), answer.GetInfo().GetFutureActionTimes())
	d.read(answer.GetSearchAttributes(), answer.GetMemo())
	d.State = inventory.State{}
	decode(answer.GetSchedule().GetAction().GetStartWorkflow().GetMemo().GetFields()[memoName], &d.State)
	if err := d.readSpec(s.catalog); err != nil {
		// What its index says of a spec was written by whoever wrote this one.
		d.Signed, d.Spec, d.Generation, d.Details = inventory.SignedSpec{}, inventory.Spec{}, 0, Details{}
		d.Problem = outside.Text(fmt.Sprintf("%s: %s", ErrUnreadable, err), outside.MaxText)
		return d, fmt.Errorf("describing the Schedule of %q: %w: %w", credential, ErrUnreadable, err)
	}
	return d, nil
}

// readSpec reads what the Schedule starts: the spec has the last word on what it says.
func (d *Described) readSpec(catalog inventory.Catalog) error {
	action := d.raw.GetAction().GetStartWorkflow()
	if kind, queue := action.GetWorkflowType().GetName(), action.GetTaskQueue().GetName(); kind != workflows.ScheduledName || queue != workflows.TaskQueue {
		return fmt.Errorf("it starts %q on task queue %q", kind, queue)
	}
	var input workflows.RotationInput
	if err := converter.GetDefaultDataConverter().FromPayloads(action.GetInput(), &input); err != nil {
		return err
	}
	spec, err := input.Spec.Peek()
	if err != nil {
		return err
	}
	if spec.Inventory != d.Inventory || spec.Credential.Name != d.Credential {
		return fmt.Errorf("it has the spec of credential %q of inventory %q", spec.Credential.Name, spec.Inventory)
	}
	d.Signed, d.Spec = input.Spec, spec
	return d.declare(catalog, d.Signed, d.Spec)
}

func (s *Schedules) describe(ctx context.Context, id string) (*workflowservice.DescribeScheduleResponse, error) {
	return patience.Call(ctx, func() (*workflowservice.DescribeScheduleResponse, error) {
		return s.client.WorkflowService().DescribeSchedule(ctx, &workflowservice.DescribeScheduleRequest{Namespace: s.namespace, ScheduleId: id})
	})
}

func (s *Schedules) list(ctx context.Context, query string, page []byte) (*workflowservice.ListSchedulesResponse, error) {
	return patience.Call(ctx, func() (*workflowservice.ListSchedulesResponse, error) {
		return s.client.WorkflowService().ListSchedules(ctx, &workflowservice.ListSchedulesRequest{
			Namespace: s.namespace, MaximumPageSize: pageSize, NextPageToken: page, Query: query,
		})
	})
}

// Find asks for the Schedule of a credential, whichever inventory it is in. ErrNotFound, ErrAmbiguous. One that
// was made a moment ago may not be listed yet, so that nothing found is looked for again.
func (s *Schedules) Find(ctx context.Context, credential string) (Described, error) {
	for look := 1; ; look++ {
		query := fmt.Sprintf("%s = %s", workflows.AttributeCredential.GetName(), strconv.Quote(credential))
		answer, err := s.list(ctx, query, nil)
		if err != nil {
			return Described{}, fmt.Errorf("looking for the Schedule of %q: %w", credential, err)
		}
		var in []string
		for _, listed := range answer.GetSchedules() {
			if inventory, name, ours := Split(listed.GetScheduleId()); ours && name == credential {
				in = append(in, inventory)
			}
		}
		switch {
		case len(in) == 1:
			return s.Describe(ctx, in[0], credential)
		case len(in) > 1:
			slices.Sort(in)
			return Described{}, fmt.Errorf("looking for the Schedule of %q: %w: %s", credential, ErrAmbiguous, strings.Join(in, ", "))
		case look == lookTwice:
			return Described{}, fmt.Errorf("looking for the Schedule of %q: %w", credential, ErrNotFound)
		}
		if err := patience.Pause(ctx, 500*time.Millisecond); err != nil {
			return Described{}, err
		}
	}
}

// declare fills in what the spec says.
func (e *Entry) declare(catalog inventory.Catalog, signed inventory.SignedSpec, spec inventory.Spec) error {
	digest, err := spec.Digest()
	if err != nil {
		return err
	}
	c := spec.Credential
	e.Owner, e.Environment, e.Risk, e.Labels = c.Owner, c.Environment, c.Risk, c.Labels
	e.Details = Details{
		Digest: digest, Purpose: c.Purpose, Policy: c.Policy, Scopes: c.Scopes,
		Claims: inventory.Claims(c, catalog), DependsOn: c.DependsOn,
	}
	e.Generation, e.NotAfter, e.RotateEvery = spec.Generation, spec.NotAfter, c.RotateEvery
	e.Signer, err = signed.KeyFingerprint()
	return err
}

// write makes the index of an entry: search attributes, and a memo for Details that do not fit into them.
func (e Entry) write(issuer string) (*commonpb.SearchAttributes, *commonpb.Memo, error) {
	var labels []string
	for k, v := range e.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	index := []string{
		pair(indexBody, e.Digest), pair(indexSigner, e.Signer), pair(indexGeneration, strconv.FormatInt(e.Generation, 10)),
		pair(indexNotAfter, stamp(e.NotAfter)), pair(indexEvery, e.RotateEvery.String()),
		pair(indexKey, outside.Cut(e.State.KeyID, maxKeyID)), pair(indexIssued, stamp(e.State.KeyIssuedAt)), pair(indexExpires, stamp(e.State.KeyExpires)),
		pair(indexRotated, stamp(e.State.LastRotation)),
	}
	if e.State.Debt > 0 {
		index = append(index, pair(indexDebt, strconv.Itoa(e.State.Debt)))
	}
	index = slices.DeleteFunc(index, func(s string) bool { return strings.IndexByte(s, '=') == len(s)-1 }) // nothing to say
	whole := slices.Concat(index, e.index())
	fit := fits(whole)
	if fit {
		index = whole
	}
	values := map[temporal.SearchAttributeKey]any{
		workflows.AttributeCredential: e.Credential, workflows.AttributeOwner: e.Owner, workflows.AttributeEnvironment: e.Environment,
		workflows.AttributeRisk: string(e.Risk), workflows.AttributeIssuer: issuer, workflows.AttributeIndex: index,
	}
	if len(labels) > 0 {
		values[workflows.AttributeLabels] = labels
	}
	if e.State.LastOutcome != "" {
		values[workflows.AttributeOutcome] = e.State.LastOutcome
	}
	if !e.State.RotateBy.IsZero() {
		values[workflows.AttributeRotateBy] = e.State.RotateBy.UTC()
	}
	attributes := &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{}}
	for key, value := range values {
		payload, err := converter.GetDefaultDataConverter().ToPayload(value)
		if err != nil {
			return nil, nil, fmt.Errorf("writing search attribute %s: %w", key.GetName(), err)
		}
		payload.Metadata["type"] = []byte(key.GetValueType().String())
		attributes.IndexedFields[key.GetName()] = payload
	}
	if fit {
		return attributes, nil, nil
	}
	details, err := converter.GetDefaultDataConverter().ToPayload(e.Details)
	if err != nil {
		return nil, nil, fmt.Errorf("writing memo: %w", err)
	}
	return attributes, &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoName: details}}, nil
}

// read takes the index apart. It tells whether the memo is of the same spec as the rest.
func (e *Entry) read(attributes *commonpb.SearchAttributes, memo *commonpb.Memo) (fresh bool) {
	fields := attributes.GetIndexedFields()
	text := func(key temporal.SearchAttributeKey) string {
		var s string
		decode(fields[key.GetName()], &s)
		return s
	}
	e.Owner, e.Environment = text(workflows.AttributeOwner), text(workflows.AttributeEnvironment)
	e.Risk = inventory.Risk(text(workflows.AttributeRisk))
	e.State.LastOutcome = text(workflows.AttributeOutcome)
	decode(fields[workflows.AttributeRotateBy.GetName()], &e.State.RotateBy)
	e.Labels = pairs(fields[workflows.AttributeLabels.GetName()])
	list := texts(fields[workflows.AttributeIndex.GetName()])
	index := pairs(fields[workflows.AttributeIndex.GetName()])
	e.Signer, e.State.KeyID = index[indexSigner], index[indexKey]
	e.Generation, _ = strconv.ParseInt(index[indexGeneration], 10, 64)
	e.State.Debt, _ = strconv.Atoi(index[indexDebt])
	e.RotateEvery, _ = inventory.ParseDuration(index[indexEvery])
	e.NotAfter, e.State.KeyIssuedAt, e.State.KeyExpires = unstamp(index[indexNotAfter]), unstamp(index[indexIssued]), unstamp(index[indexExpires])
	e.State.LastRotation = unstamp(index[indexRotated])
	if index[indexWhole] != "" {
		e.Details = details(list)
		e.Digest = index[indexBody]
		return true
	}
	decode(memo.GetFields()[memoName], &e.Details)
	return e.Digest != "" && e.Digest == index[indexBody]
}

// index is what Details look like in KeyturnIndex. There they can change, which a workflow-backed Schedule's memo
// cannot.
func (d Details) index() []string {
	list := []string{pair(indexWhole, "1"), pair(indexPurpose, d.Purpose)}
	if d.Policy != "" {
		list = append(list, pair(indexPolicy, d.Policy))
	}
	for _, s := range d.Scopes {
		list = append(list, pair(indexScope, s))
	}
	for _, c := range d.Claims {
		list = append(list, pair(indexClaim, c.String()))
	}
	for _, name := range d.DependsOn {
		list = append(list, pair(indexDependsOn, name))
	}
	return list
}

// details reads what index wrote.
func details(list []string) (d Details) {
	for _, text := range list {
		name, value, _ := strings.Cut(text, "=")
		switch name {
		case indexPurpose:
			d.Purpose = value
		case indexPolicy:
			d.Policy = value
		case indexScope:
			d.Scopes = append(d.Scopes, value)
		case indexDependsOn:
			d.DependsOn = append(d.DependsOn, value)
		case indexClaim:
			role, place, _ := strings.Cut(value, " ")
			if parts := strings.SplitN(place, "/", 3); len(parts) == 3 {
				d.Claims = append(d.Claims, inventory.Claim{Role: inventory.Role(role), Type: parts[0], Account: parts[1], Name: parts[2]})
			}
		}
	}
	return d
}

// fits tells whether a list is one that search attributes take.
func fits(list []string) bool {
	total := 0
	for _, text := range list {
		total += len(text) + 4
		if len(text) > maxValue {
			return false
		}
	}
	return total <= maxIndex
}

func pair(name, value string) string { return name + "=" + value }

// texts reads a list; one of a single text may come back as text.
func texts(p *commonpb.Payload) []string {
	var list []string
	decode(p, &list)
	if len(list) == 0 {
		var single string
		if decode(p, &single); single != "" {
			list = []string{single}
		}
	}
	return list
}

func pairs(p *commonpb.Payload) map[string]string {
	values := map[string]string{}
	for _, text := range texts(p) {
		if name, value, ok := strings.Cut(text, "="); ok {
			values[name] = value
		}
	}
	return values
}

// decode reads a payload; what cannot be read is as good as not there.
func decode(p *commonpb.Payload, into any) {
	if p != nil {
		_ = converter.GetDefaultDataConverter().FromPayload(p, into)
	}
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

func unstamp(text string) time.Time {
	at, _ := time.Parse(time.RFC3339, text)
	return at
}

// nextRuns are the moments that Temporal lists, of a paused Schedule too, which does not fire.
func nextRuns(paused bool, moments []*timestamppb.Timestamp) []time.Time {
	if paused {
		return nil
	}
	var all []time.Time
	for _, at := range moments {
		all = append(all, at.AsTime())
	}
	return all
}
