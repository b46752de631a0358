package stdout_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers/stdout"
)

func event(number int) audit.Numbered {
	return audit.Numbered{Record: "rec", Number: number, Event: audit.Event{
		ID: "seen/r/key.issued", Time: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC), Type: audit.KeyIssued, Credential: "payments-api", Rotation: "r",
		Keys: map[string]key.Ref{audit.Incoming: {KeyID: "k2"}}, Detail: map[string]string{"why": "<it>\n"},
	}}
}

func TestEachEventIsALineOfJSON(t *testing.T) {
	t.Parallel()
	out := new(bytes.Buffer)
	c := stdout.To(out)
	require.NoError(t, c.Collect(t.Context(), event(1)))
	require.NoError(t, c.Collect(t.Context(), event(2)))
	lines := bytes.Split(bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), []byte{'\n'})
	require.Len(t, lines, 2)
	assert.JSONEq(t, `{"record": "rec", "number": 1, "id": "seen/r/key.issued", "time": "2026-05-04T03:02:01Z", "type": "key.issued",
		"credential": "payments-api", "rotation": "r", "keys": {"incoming": {"principal": "", "keyID": "k2"}}, "detail": {"why": "<it>\n"}}`, string(lines[0]))
}

func TestWhereNobodyReadsALineIsNotWrittenInto(t *testing.T) {
	t.Parallel()
	from, to := io.Pipe()
	c := stdout.To(to)
	ctx, end := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() { failed <- c.Collect(ctx, event(1)) }()
	begin := make([]byte, 1)
	_, err := from.Read(begin) // the line is being written, and nobody reads on
	require.NoError(t, err)
	end()
	require.ErrorContains(t, <-failed, "nobody reads it")
	require.ErrorContains(t, c.Collect(ctx, event(1)), "nobody reads it")

	go func() { failed <- c.Collect(t.Context(), event(1)) }()
	lines := bufio.NewScanner(io.MultiReader(bytes.NewReader(begin), from))
	for range 2 { // the one that was waited for no longer, and its repetition
		require.True(t, lines.Scan())
		var got audit.Numbered
		require.NoError(t, json.Unmarshal(lines.Bytes(), &got))
		assert.Equal(t, event(1), got)
	}
	require.NoError(t, <-failed)
}

// breaking takes half of the first line.
type breaking struct{ bytes.Buffer }

func (b *breaking) Write(p []byte) (int, error) {
	if b.Len() == 0 {
		n, _ := b.Buffer.Write(p[:len(p)/2])
		return n, os.ErrClosed
	}
	return b.Buffer.Write(p)
}

func TestALineThatBrokeOffIsFollowedByAWholeOne(t *testing.T) {
	t.Parallel()
	out := new(breaking)
	c := stdout.To(out)
	require.ErrorIs(t, c.Collect(t.Context(), event(1)), os.ErrClosed)
	require.NoError(t, c.Collect(t.Context(), event(1)))
	lines := bytes.Split(out.Bytes(), []byte{'\n'})
	require.Len(t, lines, 3)
	var got audit.Numbered
	require.NoError(t, json.Unmarshal(lines[1], &got))
	assert.Equal(t, event(1), got)
}
