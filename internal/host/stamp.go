package host

import (
	"context"
	"log/slog"
	"regexp"
	"sync"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"
)

// configKey is where a result's metadata says by which worker configuration it was made.
const configKey = "keyturn-config"

// Stamp is the data converter of a worker's client. Each result of an activity says by which worker configuration it was made, in the
// metadata of its payload, which stays in the history; a worker that reads one of a configuration that it never had says so in its log, once
// for each of the first maxOthers: whoever writes to the namespace may have made it up.
type Stamp struct {
	converter.DataConverter
	seen *configs
	// acting: what is encoded is the result of an activity. reading: what is decoded is for a workflow.
	acting, reading bool
}

// maxOthers bounds how many configurations of others a worker tells of.
const maxOthers = 20

// digest is what workerconfig.Config.Digest is.
var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// configs are those that this worker has had, and those of others that it told of.
type configs struct {
	sync.Mutex
	log  *slog.Logger
	own  string
	had  map[string]bool
	told map[string]bool
}

// NewStamp returns one that stamps nothing until it is told the configuration in force.
func NewStamp(log *slog.Logger) *Stamp {
	return &Stamp{DataConverter: converter.GetDefaultDataConverter(), seen: &configs{log: log, had: map[string]bool{}, told: map[string]bool{}}}
}

// InForce says which configuration results are made by from now on, by its digest.
func (s *Stamp) InForce(digest string) {
	s.seen.Lock()
	defer s.seen.Unlock()
	s.seen.own, s.seen.had[digest] = digest, true
}

// WithContext implements workflow.ContextAware.
func (s *Stamp) WithContext(ctx context.Context) converter.DataConverter {
	of := *s
	of.acting, of.reading = activity.IsActivity(ctx), false
	return &of
}

// WithWorkflowContext implements workflow.ContextAware.
func (s *Stamp) WithWorkflowContext(ctx workflow.Context) converter.DataConverter {
	of := *s
	of.acting, of.reading = false, !workflow.IsReplaying(ctx)
	return &of
}

// ToPayloads implements converter.DataConverter.
func (s *Stamp) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	all, err := s.DataConverter.ToPayloads(values...)
	if s.acting && err == nil {
		s.seen.Lock()
		defer s.seen.Unlock()
		for _, p := range all.GetPayloads() {
			p.Metadata[configKey] = []byte(s.seen.own)
		}
	}
	return all, err
}

// FromPayloads implements converter.DataConverter.
func (s *Stamp) FromPayloads(all *commonpb.Payloads, values ...any) error {
	if s.reading {
		for _, p := range all.GetPayloads() {
			if by := p.GetMetadata()[configKey]; digest.Match(by) {
				s.seen.meet(string(by))
			}
		}
	}
	return s.DataConverter.FromPayloads(all, values...)
}

// meet tells of the configuration of another worker, once.
func (c *configs) meet(digest string) {
	c.Lock()
	defer c.Unlock()
	if c.had[digest] || c.told[digest] || len(c.told) == maxOthers {
		return
	}
	c.told[digest] = true
	c.log.Warn("another worker has another configuration: what it allows depends on which of them a step comes to; give all workers the same keyturn-worker.yaml, and send them SIGHUP or restart them; keyturn doctor names them",
		"theirs", digest, "own", c.own)
}
