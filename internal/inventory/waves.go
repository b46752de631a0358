package inventory

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/keyturn/keyturn/internal/strictyaml"
)

// WaveStep is how many of the instances without a wave have the key by the end of a wave: a share of them ("10%"),
// or a number ("5").
type WaveStep string

const (
	maxSteps = 20
	maxCount = 100_000
	// defaultParallel and MaxParallel bound how many instances of a wave are delivered to at once.
	defaultParallel = 16
	MaxParallel     = 256
)

var stepForm = regexp.MustCompile(`^[1-9][0-9]{0,5}%?$`)

// parts reads the step; ok is false for one that says nothing.
func (s WaveStep) parts() (n int, share, ok bool) {
	if !stepForm.MatchString(string(s)) {
		return 0, false, false
	}
	digits, share := strings.CutSuffix(string(s), "%")
	n, err := strconv.Atoi(digits)
	return n, share, err == nil && (share && n < 100 || !share && n <= maxCount)
}

// of is how many of all instances the step comes to, rounded up.
func (s WaveStep) of(all int) int {
	n, share, _ := s.parts()
	if share {
		return int(math.Ceil(float64(n) * float64(all) / 100))
	}
	return n
}

// stepHook reads a step that may be written as a number.
func stepHook(doc *strictyaml.Document) strictyaml.Hook {
	return func(path string, into reflect.Value) {
		raw, err := doc.JSON(path)
		var count json.Number
		text, isText := doc.Text(path)
		if !isText && (err != nil || json.Unmarshal(raw, &count) != nil || count == "") {
			doc.Report(strictyaml.Problem{Field: path, What: "is no step", Write: stepRule})
			return
		}
		if !isText {
			text = count.String()
		}
		into.SetString(text)
	}
}

const stepRule = "write a share of the instances from 1% to 99%, or a number of them, such as 5"

// checkSteps refuses steps that do not rise, and those that a wave of the file is called by.
func checkSteps(a at, c Credential) {
	if len(c.WaveSteps) > maxSteps {
		a.wrong("waveSteps", fmt.Sprintf("has %d steps, more than %d", len(c.WaveSteps), maxSteps), "write fewer")
	}
	before, beforeShare := 0, false
	for i, s := range c.WaveSteps {
		field := fmt.Sprintf("waveSteps[%d]", i)
		n, share, ok := s.parts()
		switch {
		case !ok:
			a.wrong(field, fmt.Sprintf("is %q", clip(string(s))), stepRule)
			continue
		case beforeShare && !share:
			a.wrong(field, fmt.Sprintf("is the number %s after a share, and nobody can tell whether that is more", s), "write numbers first, then shares")
		case share == beforeShare && n <= before:
			a.wrong(field, fmt.Sprintf("is %s, not more than the step before it", s), "let the steps rise: each counts all that have the key by its end")
		}
		before, beforeShare = n, share
		if slices.ContainsFunc(c.Consumers, func(consumer Consumer) bool { return consumer.Wave == s.wave() }) {
			a.wrong(field, fmt.Sprintf("makes a wave %s, and a consumer has a wave of that name", s.wave()), "give that one another name")
		}
	}
	if c.WaveParallel < 0 || c.WaveParallel > MaxParallel {
		a.wrong("waveParallel", fmt.Sprintf("is %d", c.WaveParallel), fmt.Sprintf("write how many instances are delivered to at once, 1 to %d", MaxParallel))
	}
}

// Parallel is how many instances of a wave are delivered to at once.
func (t Terms) Parallel() int {
	if t.WaveParallel <= 0 {
		return defaultParallel
	}
	return min(t.WaveParallel, MaxParallel)
}

// wave is what the wave of a step is called.
func (s WaveStep) wave() string { return RestWave + "-" + string(s) }

// Wave is a group of instances that is delivered to together: of each of its consumers, the instances that are named.
type Wave struct {
	Name      string
	Consumers []Consumer
}

// RestWave is the name of the wave of the consumers that name none, and the beginning of the names of its steps.
const RestWave = "rest"

// Waves groups the instances: the canary, the named waves in the order of the file, then those of consumers that name
// none, parted by WaveSteps. pulls tells whether the consumers of a target type read the store by themselves: since
// promoting delivers to all of them at once, they are not parted, and do not count. The same credential always
// has the same waves.
func (c Credential) Waves(pulls func(targetType string) bool) []Wave {
	var order []string
	members := map[string][]Consumer{}
	for _, consumer := range c.Consumers {
		name := consumer.Wave
		if name == "" {
			name = RestWave
		}
		if members[name] == nil {
			order = append(order, name)
		}
		members[name] = append(members[name], consumer)
	}
	rank := func(name string) int {
		switch name {
		case CanaryWave:
			return -1
		case RestWave:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b string) int { return rank(a) - rank(b) })
	waves := make([]Wave, 0, len(order)+len(c.WaveSteps))
	for _, name := range order {
		if name == RestWave {
			waves = append(waves, c.steps(members[name], pulls)...)
		} else {
			waves = append(waves, Wave{Name: name, Consumers: members[name]})
		}
	}
	return waves
}

// steps parts the rest. Each instance has a place by a hash of its name, and a step takes the next ones in that order,
// at least one: so an instance more or less moves at most one other over the end of each step.
func (c Credential) steps(rest []Consumer, pulls func(targetType string) bool) []Wave {
	var places []place
	for i, consumer := range rest {
		if pulls(consumer.Target.Type) {
			continue
		}
		for _, instance := range consumer.InstanceNames() {
			places = append(places, placeOf(c.Name, i, consumer.Name, instance))
		}
	}
	slices.SortFunc(places, place.compare)
	var waves []Wave
	began := 0
	for _, s := range c.WaveSteps {
		end := min(max(s.of(len(places)), began+1), len(places))
		if end > began {
			waves = append(waves, Wave{Name: s.wave(), Consumers: among(rest, places[began:end], nil)})
		}
		began = end
	}
	if last := among(rest, places[began:], pulls); len(last) > 0 {
		waves = append(waves, Wave{Name: RestWave, Consumers: last})
	}
	return waves
}

// place is where an instance stands in the order of the steps.
type place struct {
	hash               uint64
	consumer           int
	name, consumerName string
}

func placeOf(credential string, i int, consumer, instance string) place {
	sum := sha256.Sum256([]byte(credential + "\x00" + consumer + "\x00" + instance))
	return place{hash: binary.BigEndian.Uint64(sum[:]), consumer: i, consumerName: consumer, name: instance}
}

func (p place) compare(q place) int {
	switch {
	case p.hash < q.hash:
		return -1
	case p.hash > q.hash:
		return 1
	}
	return strings.Compare(p.consumerName+"\x00"+p.name, q.consumerName+"\x00"+q.name)
}

// among narrows consumers to the instances at some places, in the order of the file; those that whole tells of stay whole.
func among(consumers []Consumer, at []place, whole func(targetType string) bool) []Consumer {
	chosen := map[int]map[string]bool{}
	for _, p := range at {
		if chosen[p.consumer] == nil {
			chosen[p.consumer] = map[string]bool{}
		}
		chosen[p.consumer][p.name] = true
	}
	var narrowed []Consumer
	for i, consumer := range consumers {
		switch {
		case whole != nil && whole(consumer.Target.Type):
		case len(chosen[i]) == 0:
			continue
		case len(consumer.Instances) > 0:
			consumer.Instances = slices.DeleteFunc(slices.Clone(consumer.Instances), func(name string) bool { return !chosen[i][name] })
		}
		narrowed = append(narrowed, consumer)
	}
	return narrowed
}

// maxReplicas bounds how often an instance is asked for one statement.
const maxReplicas = 20

// checkFreshness judges what a consumer says of caches, runs and replicas.
func checkFreshness(a at, c Credential, consumer Consumer) {
	for _, d := range []struct {
		field string
		value Duration
	}{{"cacheTTL", consumer.CacheTTL}, {"longestRun", consumer.LongestRun}} {
		a.within(d.field, d.value, 0, maxTerm)
	}
	if consumer.LongestRun > c.Overlap {
		a.wrong("longestRun", fmt.Sprintf("is %s, longer than the overlap of %s: a run that began with the retiring key would be cut off", consumer.LongestRun, c.Overlap),
			"write an overlap of at least "+consumer.LongestRun.String())
	}
	if consumer.Replicas < 0 || consumer.Replicas > maxReplicas {
		a.wrong("replicas", fmt.Sprintf("is %d", consumer.Replicas), fmt.Sprintf("write how many processes answer for an instance, 1 to %d, or name each as an instance", maxReplicas))
	}
	if consumer.Replicas > 1 && consumer.Attestation == nil {
		a.wrong("replicas", "is given, and the consumer has no attestation to ask them by", "write an attestation")
	}
	if consumer.Replicas > 1 && consumer.Purge != nil && consumer.CacheTTL <= 0 {
		a.wrong("purge", fmt.Sprintf("goes to one address, and purges one of the %d processes behind it", consumer.Replicas),
			"write the cacheTTL after which the others forget by themselves, or name each process under instances")
	}
}
