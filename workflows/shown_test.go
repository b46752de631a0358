package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

func TestARollbackIsOfferedOnlyWhereItWouldBeTaken(t *testing.T) {
	t.Parallel()
	lacking := func(s *script) {
		s.answers["GatherEvidence"] = func(n int) (any, error) {
			if n == 1 {
				return policy.Evidence{Missing: []policy.Decision{no(policy.EvidenceLacking)}}, nil
			}
			return nil, nil
		}
	}
	for name, c := range map[string]struct {
		place   string
		after   time.Duration
		prepare func(*script)
		offered bool
	}{
		"in a soak": {"canary soaking", inFirstSoak, func(*script) {}, true},
		"in a soak, without a way back": {"canary soaking", inFirstSoak, func(s *script) {
			s.plan.CanRollBack = false
		}, false},
		"in the overlap": {"overlap", inOverlap, func(*script) {}, true},
		"in the overlap, without a way back": {"overlap", inOverlap, func(s *script) {
			s.plan.CanRollBack = false
		}, false},
		"in the soak after disabling": {"disable-soak", inDisableSoak, lacking, true},
		"in the soak after disabling, once the way back has ended": {"disable-soak", inDisableSoak, func(s *script) {
			s.plan.RetiringExpires, s.plan.WayBackEnds = s.env.Now().Add(30*time.Hour), s.env.Now().Add(inOverlap+time.Minute)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			c.prepare(s)
			looked := false
			s.in(c.place, c.after, func() {
				looked = true
				shown := s.status()
				assert.Equal(t, c.offered, shown.NoWayBack == "")
				page := shown.Markdown(s.env.Now())
				assert.Contains(t, page, "**Next:** ")
				if c.offered {
					assert.Contains(t, shown.UnblockedBy, "rollback")
					assert.Contains(t, page, "**If you are worried:** `keyturn rollback payments-api --reason WHY`")
				} else {
					assert.NotContains(t, page, "worried")
					assert.NotContains(t, shown.UnblockedBy, "rollback")
					assert.NotEmpty(t, shown.UnblockedBy)
				}
			})
			s.approveAt(atGate)
			s.run()
			assert.True(t, looked)
		})
	}
}

func TestAStatusSaysWhoAskedAndWhyAlsoInTheNextRun(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.crowd("canary soaking", inFirstSoak)
	next := s.fills()
	next.RequestedBy, next.Reason = "ann", "quarterly *review*" // as continue-as-new hands on what a run was begun with

	s = newScript(t)
	looked := false
	s.in("overlap", inOverlap, func() {
		looked = true
		assert.Equal(t, "ann: quarterly *review*", s.status().Asked())
		assert.Contains(t, s.status().Markdown(s.env.Now()), `**Asked for by:** ann\: quarterly \*review\*`)
	})
	s.approveAt(atGate)
	s.goesOn(next)
	assert.True(t, looked)
}

func TestNobodyIsToldByASpecThatNobodyHasRead(t *testing.T) {
	t.Parallel()
	t.Run("since no worker can", func(t *testing.T) {
		t.Parallel()
		s := newScript(t)
		s.answers["Accept"] = func(int) (any, error) {
			return nil, temporal.NewNonRetryableApplicationError("reading spec: owner is not a known field", activities.TypeSpec, nil)
		}
		assert.Equal(t, policy.SpecRefused, s.run().Reason)
		assert.Empty(t, s.notes)
	})
	s := newScript(t)
	gone := temporal.NewNonRetryableApplicationError("gone", activities.TypeLeft, nil)
	s.env.OnActivity(act.Resolve, mock.Anything, mock.Anything).Return(inventory.SignedSpec{}, gone)
	s.env.ExecuteWorkflow(workflows.Rotation, workflows.RotationInput{Credential: "payments-api"})
	require.NoError(t, s.env.GetWorkflowError())
	assert.Empty(t, s.notes)
	assert.Empty(t, s.status().Notices)
	var report workflows.Report
	require.NoError(t, s.env.GetWorkflowResult(&report))
	assert.Equal(t, policy.LeftInventory, report.Reason)
}

func TestThePageSaysFirstHowToDecide(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Approvals.Revoke.Count = 2
	looked := false
	s.in("revoke-gate", atGate, func() {
		s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "ann"}, nil)
	})
	s.in("revoke-gate", atGate+time.Minute, func() {
		looked = true
		page := s.status().Markdown(s.env.Now())
		first, _, _ := strings.Cut(page, "**Retiring key")
		assert.Contains(t, page, "**Next:** the retiring key is disabled, where its issuer can, and then destroyed")
		for _, says := range []string{
			"**Owner:** payments@example.com", "**Spec:** the one that was applied ", "**Asked for by:** ann\\: test", "**Waits for:** the revoke gate", "**revoke gate:** 1 of 2 approved",
			"`keyturn approve payments-api --gate revoke`", "`{\"gate\":\"revoke\",\"by\":\"you\"}`",
		} {
			assert.Contains(t, first, says)
		}
		assert.Regexp(t, `(?m)^1\. \d{4}-\d\d-\d\d \d\d:\d\d:\d\d `, page)
		require.NotEmpty(t, s.notes)
		asked := s.notes[len(s.notes)-1].Body
		assert.Contains(t, asked, "Approve with: keyturn approve payments-api --gate revoke; or send the signal approve with: {\"gate\":\"revoke\",\"by\":\"you\"}")
		s.ask(policy.Approve, policy.Request{Gate: "revoke", By: "bob"}, nil)
	})
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.True(t, looked)
}

// Behind a signed gate, whoever may cancel the run may not turn it back; they are told who may, and how.
func TestACancelThatTakesASignatureNamesTheCommand(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Approvals.Revoke.Trust, s.credential.Approvals.Revoke.From = inventory.TrustSigned, []string{"owners"}
	s.env.OnActivity(act.Prove, mock.Anything, mock.Anything).Return(func(ctx context.Context, in activities.ProveInput) ([]policy.Proof, error) {
		info := activity.GetInfo(ctx)
		proof := policy.Proof{By: signed.Signer{Name: "ann"}, Groups: []string{"owners"}, Request: policy.SignedRequest{
			Action: policy.Approve, Nonce: "n", SignedAt: s.env.Now(),
			Bound: policy.Bound{
				Namespace: info.Namespace, Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID, Rotation: info.WorkflowExecution.RunID,
				Gate: inventory.GateRevoke, Evidence: "digest", Retiring: retiring.KeyID, Incoming: incoming.KeyID,
			},
		}}
		return []policy.Proof{proof}, nil
	})
	s.in("revoke-gate", atGate, func() {
		assert.Contains(t, s.status().Markdown(s.env.Now()), "`keyturn approve payments-api --gate revoke --sign KEY`")
		s.ask(policy.Approve, policy.Request{Signed: &signed.Envelope{Body: []byte(`{}`), Signature: "ann's"}}, func(v policy.Verdict) { assert.True(t, v.Accepted, v.Message) })
	})
	looked := false
	s.in("disable-soak", inDisableSoak, s.env.CancelWorkflow)
	s.in("disable-soak", inDisableSoak+time.Minute, func() {
		looked = true
		assert.Contains(t, fmt.Sprint(s.status().Notices), "Turn back with: keyturn rollback payments-api --reason … --sign KEY")
	})
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.True(t, looked)
}

// Whoever looks for what is overdue finds the rotation that is under way, from its plan on.
func TestARunningRotationIsFoundByWhenItIsOverdue(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	by := s.env.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	s.plan.RotateBy = by
	found := map[string]time.Time{} // by phase, as it was first told
	s.env.OnUpsertTypedSearchAttributes(mock.MatchedBy(func(a temporal.SearchAttributes) bool {
		if rotateBy, has := a.GetTime(workflows.AttributeRotateBy); has {
			phase, _ := a.GetKeyword(workflows.AttributePhase)
			found[phase] = rotateBy
		}
		return true
	})).Return(nil)
	s.approveAt(atGate)
	require.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, by, found[string(workflows.PhaseIssue)], "%v", found)
}

// What a person reads of a run that nothing leads back from, at whatever minute, offers no rollback: status, page, and what people are told.
func TestARollbackIsNotOfferedBesideNoWayBack(t *testing.T) {
	t.Parallel()
	refuses := func(times int, answer any, err error) func(int) (any, error) {
		return func(n int) (any, error) {
			if n <= times {
				return answer, err
			}
			return nil, nil
		}
	}
	lost := errors.New("connection refused")
	for name, prepare := range map[string]func(*script){
		"all goes well":           func(*script) {},
		"there is no earlier key": func(s *script) { s.plan.Retiring = nil },
		"the evidence lacks": func(s *script) {
			s.answers["GatherEvidence"] = refuses(3, policy.Evidence{Missing: []policy.Decision{no(policy.EvidenceLacking)}}, nil)
		},
		"the promotion fails":        func(s *script) { s.answers["Promote"] = refuses(3, nil, lost) },
		"a wave fails":               func(s *script) { s.answers["DeliverWave"] = refuses(3, nil, lost) },
		"errors rise in the overlap": func(s *script) { s.answers["Watch"] = refuses(2, no(policy.BudgetBreached), nil) },
		"the destroying fails":       func(s *script) { s.answers["Destroy"] = refuses(10, nil, lost) },
		"it fails, and nobody can see": func(s *script) {
			s.answers["Destroy"] = refuses(10, nil, lost)
			s.answers["LookBack"] = func(int) (any, error) { return nil, lost }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t)
			s.plan.CanRollBack, s.plan.NoWayBack = false, "the value of the retiring key is in no store"
			prepare(s)
			offers := regexp.MustCompile(`(?i)\brollback\b|turns? (it )?back`)
			looked := 0
			s.every(7*time.Minute, 24*time.Hour, func() {
				shown := s.status()
				if gate := shown.Gate; gate != nil && len(gate.Approvals) == 0 {
					s.ask(policy.Approve, policy.Request{Gate: gate.Gate, By: "ann"}, nil)
				}
				if shown.NoWayBack == "" || shown.Report != nil {
					return
				}
				looked++
				shown.Timeline = nil
				for _, text := range []string{shown.Doing, shown.WaitsFor, shown.UnblockedBy, shown.TurnBack, shown.Markdown(s.env.Now())} {
					assert.NotRegexp(t, offers, text)
				}
			})
			s.run()
			assert.Positive(t, looked)
			for _, n := range s.notes {
				assert.NotRegexp(t, offers, n.Subject+": "+n.Body)
			}
		})
	}
}

// Whoever looks sees of each wave how many instances are where they should be, which are not and why, and no more of them than a page takes.
func TestThePageSaysHowFarEachInstanceIs(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.Waves[1].Instances = nil
	var stragglers []policy.Instance
	for i := range 500 {
		s.plan.Waves[1].Instances = append(s.plan.Waves[1].Instances, fmt.Sprintf("web/i%d", i))
		if i < 25 {
			stragglers = append(stragglers, policy.Instance{Consumer: "web", Instance: fmt.Sprintf("i%d", i), NotAttesting: "HTTP 503 \u202e" + strings.Repeat("*", 1000)})
		}
	}
	late := no(policy.InstanceNotConverged)
	s.answers["DeliverWave"] = func(n int) (any, error) {
		if n == 2 {
			return activities.WaveResult{Decision: late, Stragglers: stragglers, More: 3}, nil
		}
		return nil, nil
	}
	looked := 0
	look := func(says ...string) func() {
		return func() {
			looked++
			page := s.status().Markdown(s.env.Now())
			for _, what := range says {
				assert.Contains(t, page, what)
			}
		}
	}
	s.in("canary soaking", inFirstSoak, look("| canary | canary | soaking\\: 1 of 1 attested the incoming key, and were well |", "| waiting\\: not delivered to yet |"))
	s.queued = time.Minute
	s.in("rest delivering", 12*time.Minute, look("| canary | canary | passed\\: 1 of 1 attested", "and 490 more | delivering\\: each instance is to attest", "**Takes:** until ", "the wave has 5m"))
	assert.Equal(t, workflows.RolledBack, s.run().Outcome)
	assert.Equal(t, 2, looked)
	rest := s.status().Waves[1]
	assert.Equal(t, 472, rest.Attested)
	assert.Len(t, rest.Behind, 10)
	assert.Equal(t, 18, rest.More)
	page := s.status().Markdown(s.env.Now())
	assert.Contains(t, page, "> **Did not get there:** wave rest: web/i0 does not state which key it uses\\: HTTP 503 \\\\u202e")
	assert.Contains(t, page, "> **Did not get there:** wave rest: and 18 more\n")
	assert.NotContains(t, page, "web/i10 ")
	assert.Less(t, len(page), 16<<10)
}

// While a wave is delivered to, the page says how far each of its instances is, as the delivery tells; of what another one tells, or nobody
// can have seen, it says nothing.
func TestThePageSaysHowFarADeliveryIs(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.plan.Waves[1].Instances = []string{"web/a", "web/b", "web/c"}
	silent := policy.Instance{Consumer: "web", Instance: "b", NotAttesting: "HTTP 503 \u202e" + strings.Repeat("*", 1000)}
	tell := func(key, wave string, more int, behind ...policy.Instance) func() {
		return func() {
			s.env.SignalWorkflow(activities.ProgressName, activities.Progress{KeyID: key, Wave: wave, Result: activities.WaveResult{Stragglers: behind, More: more}})
		}
	}
	const during = 11*time.Minute + 30*time.Second // the canary is delivered to and soaks until the eleventh minute
	looked := 0
	page := func(says ...string) func() {
		return func() {
			looked++
			page := s.status().Markdown(s.env.Now())
			for _, what := range says {
				assert.Contains(t, page, what)
			}
			assert.NotContains(t, page, "Did not get there")
		}
	}
	nothing := page("web/a, web/b, web/c | delivering\\: each instance is to attest")
	s.in("rest delivering", during, tell("key-old", "rest", 0, silent))
	s.in("rest delivering", during+time.Second, nothing)
	s.in("rest delivering", during+2*time.Second, tell("key-new", "canary", 0, silent))
	s.in("rest delivering", during+3*time.Second, nothing)
	s.in("rest delivering", during+4*time.Second, func() { s.env.SignalWorkflow(activities.ProgressName, "soon") })
	s.in("rest delivering", during+5*time.Second, page(`a signal "delivery-progress" could not be read\: it is not what an activity tells`))
	s.in("rest delivering", during+6*time.Second, tell("key-new", "rest", 1<<30, slices.Repeat([]policy.Instance{silent}, 1000)...))
	s.in("rest delivering", during+7*time.Second, page("delivering\\: 0 of 3 attest the incoming key"))
	s.in("rest delivering", during+8*time.Second, tell("key-new", "rest", -5, silent))
	s.in("rest delivering", during+9*time.Second, page("web/a, web/b, web/c | delivering\\: 2 of 3 attest the incoming key, and are well, as of ",
		"> **Not there yet:** wave rest: web/b does not state which key it uses\\: HTTP 503 \\\\u202e"))
	s.queued = time.Minute
	s.approveAt(atGate + 2*time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, 5, looked)
	rest := s.status().Waves[1]
	assert.Equal(t, 3, rest.Attested)
	assert.Empty(t, rest.Behind)
	assert.Zero(t, rest.SeenAt)
}

// The budget is said with its bound, and what was counted against it with each wave.
func TestThePageSaysHowMuchOfTheErrorBudgetIsUsed(t *testing.T) {
	t.Parallel()
	s := quiet(t, func(*script) bool { return false })
	s.answers["HadTraffic"] = func(int) (any, error) {
		return policy.Decision{OK: true, Message: "2 of 400 requests failed, within the budget of 1.00%"}, nil
	}
	looked := false
	s.in("rest soaking", 15*time.Minute, func() {
		looked = true
		page := s.status().Markdown(s.env.Now())
		assert.Contains(t, page, "**Error budget:** at most 1.00% of the requests in 5m may fail, where there are 50 or more, or it turns back; what the last look counted is said by `keyturn status payments-api`")
		assert.Contains(t, page, "passed\\: 1 of 1 attested the incoming key, and were well; 2 of 400 requests failed, within the budget of 1.00%")
	})
	s.approveAt(atGate)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.True(t, looked)
}

// What no timer ends has a bound all the same, or it is said that there is none; and before the waits that are left, nothing ends.
func TestThePageSaysHowLongItTakes(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.credential.Approvals.Revoke.RequestExpires = 0
	quietSince := s.began.Add(70 * time.Minute)
	lacking := policy.Evidence{Missing: []policy.Decision{no(policy.RetiringNotQuiet)}, QuietSince: quietSince}
	s.answers["GatherEvidence"] = func(n int) (any, error) {
		if n == 1 {
			return lacking, nil
		}
		if s.env.Now().Sub(s.began) < 85*time.Minute {
			return nil, temporal.NewApplicationErrorWithOptions("not quiet", activities.TypeNotYet, temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign})
		}
		return nil, nil
	}
	looked := 0
	look := func(place string, after time.Duration, takes string, soonest time.Duration) {
		s.in(place, after, func() {
			looked++
			status := s.status()
			assert.Equal(t, takes, status.Takes, place)
			assert.WithinDuration(t, s.began.Add(soonest), status.Soonest, 5*time.Second, place)
			assert.Contains(t, status.Markdown(s.env.Now()), "**ETA:** the rotation ends "+status.Soonest.UTC().Format(time.RFC3339)+" at the earliest")
		})
	}
	whole := 110 * time.Minute // two soaks of 10 min, an overlap of 60, and 30 min disabled
	look("canary soaking", inFirstSoak, "", whole)
	look("overlap", inOverlap, "", whole)
	look("evidence", 82*time.Minute, "not before "+quietSince.Add(30*time.Minute).UTC().Format(time.RFC3339)+": until then the retiring key has to be quiet; there is no time limit", 112*time.Minute)
	look("revoke-gate", atGate, "there is no time limit", 120*time.Minute)
	s.approveAt(atGate + time.Minute)
	look("disable-soak", atGate+10*time.Minute, "", 121*time.Minute)
	assert.Equal(t, workflows.Completed, s.run().Outcome)
	assert.Equal(t, 5, looked)
	assert.Zero(t, s.status().Soonest)
	assert.Empty(t, s.status().Takes)
}
