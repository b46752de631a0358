package devserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNothingListensBeyondLoopback(t *testing.T) {
	t.Parallel()
	start(t, Options{})
	own := map[string]bool{}
	files, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	for _, f := range files {
		if link, err := os.Readlink(f); err == nil {
			own[link] = true
		}
	}
	listening := 0
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/self/net/" + table)
		if err != nil {
			continue // no IPv6 here
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			const listen = "0A"
			if len(f) < 10 || f[3] != listen || !own[fmt.Sprintf("socket:[%s]", f[9])] {
				continue
			}
			listening++
			assert.True(t, strings.HasPrefix(f[1], "0100007F:"), "listens on %s, which is not 127.0.0.1", f[1])
		}
	}
	assert.GreaterOrEqual(t, listening, 5, "the frontend, history, matching, worker and the Web UI")
}
