package schedule

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/workflows"
)

func entry() Entry {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return Entry{
		Owner: "payments@example.com", Environment: "production", Risk: inventory.RiskHigh, Labels: map[string]string{"team": "payments", "tier": ""},
		Details: Details{
			Digest: "d1", Purpose: "charges = money", Policy: "standard", Scopes: []string{"charge:create", "a=b"}, DependsOn: []string{"b"},
			Claims: []inventory.Claim{{Role: "issuer", Type: "gateway", Account: "edge", Name: "a"}, {Role: "store", Type: "file", Account: "vault", Name: "people/a"}},
		},
		Generation: 1700000000000, Signer: "SHA256:abc", NotAfter: at, RotateEvery: inventory.Duration(90 * 24 * time.Hour),
		State: inventory.State{KeyID: "k", KeyIssuedAt: at, KeyExpires: at, RotateBy: at, LastOutcome: "completed", LastRotation: at, Debt: 2},
	}
}

func TestAnIndexReadsAsItWasWritten(t *testing.T) {
	t.Parallel()
	e := entry()
	attributes, memo, err := e.write("gateway")
	require.NoError(t, err)
	assert.Nil(t, memo, "it would be kept twice")
	var got Entry
	assert.True(t, got.read(attributes, nil))
	assert.Equal(t, e, got)
}

// What does not fit is in the memo, and an older memo is known as such.
func TestAnIndexThatDoesNotFitNeedsItsMemo(t *testing.T) {
	t.Parallel()
	long := entry()
	long.Purpose = strings.Repeat("charges ", 100)
	attributes, memo, err := long.write("gateway")
	require.NoError(t, err)
	var got Entry
	assert.True(t, got.read(attributes, memo))
	assert.Equal(t, long, got)
	assert.False(t, new(Entry).read(attributes, nil))
	older := long
	older.Digest = "d0"
	_, olderMemo, err := older.write("gateway")
	require.NoError(t, err)
	assert.False(t, new(Entry).read(attributes, olderMemo))

	many := entry()
	for range 100 {
		many.Scopes = append(many.Scopes, strings.Repeat("s", 30))
	}
	attributes, _, err = many.write("gateway")
	require.NoError(t, err)
	total := 0
	for _, text := range texts(attributes.GetIndexedFields()[workflows.AttributeIndex.GetName()]) {
		assert.LessOrEqual(t, len(text), maxValue)
		total += len(text) + 4
	}
	assert.LessOrEqual(t, total, maxIndex)
}

func TestAPausedScheduleHasNoNextRun(t *testing.T) {
	t.Parallel()
	listed := []*timestamppb.Timestamp{timestamppb.New(time.Unix(1, 0))}
	assert.Len(t, nextRuns(false, listed), 1)
	assert.Empty(t, nextRuns(true, listed))
}

func TestIDs(t *testing.T) {
	t.Parallel()
	in, name, ok := Split(ID("payments", "a.b-c"))
	assert.True(t, ok)
	assert.Equal(t, []string{"payments", "a.b-c"}, []string{in, name})
	for _, other := range []string{"keyturn/sweep", "payments/a", "keyturn//a", "keyturn/a/", "keyturn/a/b/c", "temporal-sys-scheduler:keyturn/a/b"} {
		_, _, ok := Split(other)
		assert.False(t, ok, other)
	}
}

// Whoever may write to the namespace may write anything into the index and the memo. What is read of it is read again as it
// was, once it has been written.
func FuzzIndex(f *testing.F) {
	attributes, memo, err := entry().write("gateway")
	require.NoError(f, err)
	require.Nil(f, memo)
	index, labels := attributes.GetIndexedFields()[workflows.AttributeIndex.GetName()], attributes.GetIndexedFields()[workflows.AttributeLabels.GetName()]
	f.Add(index.GetData(), labels.GetData(), []byte(`"2026-03-01T12:00:00Z"`), []byte(`{}`))
	f.Add([]byte(`["body=d1","generation=-1","debt=99999999999999999999","rotate-every=1h1h","issued=0000-01-01T00:00:00+01:00"]`), []byte(`"team=payments"`), []byte(`"x"`), []byte(`{"digest":"d1","purpose":"charges"}`))
	f.Add([]byte(`["whole=1","claim=issuer a","claim=a b/c/d/e","scope","purpose==","key=k="]`), []byte(`["=","a","a=b","a=c"]`), []byte(`0`), []byte(`[`))
	f.Add([]byte(`{"whole":1}`), []byte(`[[]]`), []byte(`null`), []byte(`null`))
	f.Fuzz(func(t *testing.T, index, labels, rotateBy, memo []byte) {
		field := func(data []byte) *commonpb.Payload {
			return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: data}
		}
		var read Entry
		fresh := read.read(&commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{
			workflows.AttributeIndex.GetName(): field(index), workflows.AttributeLabels.GetName(): field(labels), workflows.AttributeRotateBy.GetName(): field(rotateBy),
		}}, &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoName: field(memo)}})
		assert.LessOrEqual(t, len(read.Labels), len(labels))
		assert.LessOrEqual(t, len(read.Scopes)+len(read.DependsOn)+len(read.Claims), len(index)+len(memo))
		for name := range read.Labels {
			assert.NotContains(t, name, "=")
		}
		if !fresh {
			return // the Schedule itself is asked
		}
		again := read
		for range 2 {
			attributes, kept, err := again.write("gateway")
			if err != nil {
				return // a time that nobody can write
			}
			read, again = again, Entry{}
			again.read(attributes, kept)
		}
		assert.Equal(t, read, again)
	})
}

func FuzzEntry(f *testing.F) {
	f.Add("charges = money", "standard", "charge:create", "people/a", "team", "payments", "k=", int64(1700000000000))
	f.Add("", "", "", "", "", "=", "", int64(0))
	f.Add(strings.Repeat("charges ", 100), "=", "\n", "a/b/c", "1", "\x00", strings.Repeat("k", maxKeyID), int64(-1))
	f.Fuzz(func(t *testing.T, purpose, policy, scope, path, label, value, key string, generation int64) {
		for _, text := range []string{purpose, policy, scope, path, label, value, key} {
			if !utf8.ValidString(text) {
				return // nothing of the kind comes through JSON
			}
		}
		if strings.Contains(label, "=") || len(key) > maxKeyID {
			return // no name of a label; cut
		}
		e := entry()
		e.Purpose, e.Policy, e.Scopes, e.Generation, e.State.KeyID = purpose, policy, []string{scope}, generation, key
		e.Labels = map[string]string{label: value}
		e.Claims[1].Name = path
		attributes, memo, err := e.write("gateway")
		require.NoError(t, err)
		var got Entry
		require.True(t, got.read(attributes, memo))
		assert.Equal(t, e, got)
	})
}
