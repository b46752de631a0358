package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asked is what testdata/vectors.json asks of a verifier in any language.
type asked struct {
	Case  string
	File  string // path of the key file
	Value string
	At    time.Time
	// Accepted is the ID of the key that is accepted; empty when the request is refused.
	Accepted string
	// trusted: the file is what it should be.
	trusted bool
}

func vectors(t *testing.T) (list []asked) {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	var file struct {
		KeyFile   json.RawMessage
		Requests  []asked
		Untrusted []struct{ Case, Text, Mode string }
	}
	require.NoError(t, json.Unmarshal(text, &file))
	put := func(name string, content []byte, mode fs.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, content, mode))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	trusted := put("keys.json", file.KeyFile, 0o600)
	for _, r := range file.Requests {
		r.File, r.trusted = trusted, true
		list = append(list, r)
	}
	for n, u := range file.Untrusted {
		mode := uint64(0o600)
		if u.Mode != "" {
			mode, err = strconv.ParseUint(u.Mode, 8, 9)
			require.NoError(t, err)
		}
		path := put(fmt.Sprintf("untrusted-%d.json", n), []byte(u.Text), fs.FileMode(mode))
		list = append(list, asked{Case: u.Case, File: path, Value: file.Requests[0].Value, At: file.Requests[0].At})
	}
	return list
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Case, func(t *testing.T) {
			t.Parallel()
			verifier, _ := desk{keyFile: v.File, usageFile: filepath.Join(t.TempDir(), "usage")}.verifier(t, v.At)
			grant, ok := verifier.Verify(v.Value)
			assert.Equal(t, v.Accepted, grant.KeyID)
			assert.Equal(t, v.Accepted != "", ok)
			assert.Equal(t, v.trusted, verifier.Err() == nil)
		})
	}
}

// verifying asks the verifier in Python what it is asked in JSON, and answers in order; null where the file is not trusted.
const verifying = `
import json, sys
sys.path.insert(0, "../examples/gateway")
import verify

def answer(asked):
    try:
        key = verify.find(asked["File"], asked["Value"])
    except Exception:
        return None
    return key["id"] if key and verify.accepted(key, verify.time(asked["At"])) else ""

json.dump([answer(asked) for asked in json.load(sys.stdin)], sys.stdout)
`

func TestVectorsInPython(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("python3 is missing: apt-get install python3")
		}
		t.Skip("python3 is missing: apt-get install python3")
	}
	list := vectors(t)
	questions, err := json.Marshal(list)
	require.NoError(t, err)
	python := exec.Command("python3", "-B", "-c", verifying)
	python.Stdin, python.Stderr = bytes.NewReader(questions), os.Stderr
	out, err := python.Output()
	require.NoError(t, err)
	var answers []*string
	require.NoError(t, json.Unmarshal(out, &answers))
	require.Len(t, answers, len(list))
	for n, v := range list {
		if !v.trusted {
			assert.Nil(t, answers[n], v.Case)
		} else if assert.NotNil(t, answers[n], v.Case) {
			assert.Equal(t, v.Accepted, *answers[n], v.Case)
		}
	}
}
