package atomicfile_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

func open(t *testing.T) (*os.Root, string) {
	path := t.TempDir()
	dir, err := os.OpenRoot(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dir.Close()) })
	return dir, path
}

func names(t *testing.T, path string) []string {
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWriteReplacesTheWholeFile(t *testing.T) {
	t.Parallel()
	dir, path := open(t)
	for _, content := range []string{"a long first content", "short"} {
		require.NoError(t, atomicfile.Write(dir, "f", []byte(content), 0o640, nil))
		got, err := os.ReadFile(filepath.Join(path, "f"))
		require.NoError(t, err)
		assert.Equal(t, content, string(got))
	}
	info, err := os.Stat(filepath.Join(path, "f"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o640), info.Mode(), "the umask takes nothing away")
	assert.Equal(t, []string{"f"}, names(t, path))
}

func TestAReaderSeesTheOldOrTheNewContent(t *testing.T) {
	t.Parallel()
	dir, path := open(t)
	contents := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 50_000)}
	require.NoError(t, atomicfile.Write(dir, "f", []byte(contents[0]), 0o600, nil))
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			got, err := os.ReadFile(filepath.Join(path, "f"))
			if !assert.NoError(t, err) || !assert.True(t, string(got) == contents[0] || string(got) == contents[1], "a mix") { //nolint:testifylint // no FailNow outside of the test goroutine
				return
			}
		}
	})
	for i := range 50 {
		require.NoError(t, atomicfile.Write(dir, "f", []byte(contents[i%2]), 0o600, nil))
	}
	close(stop)
	reader.Wait()
}

func TestAWriteThatFailsLeavesTheOldFileAlone(t *testing.T) {
	t.Parallel()
	dir, path := open(t)
	require.NoError(t, atomicfile.Write(dir, "f", []byte("old"), 0o600, nil))
	boom := errors.New("boom")
	require.ErrorIs(t, atomicfile.Write(dir, "f", []byte("new"), 0o600, func(*os.File) error { return boom }), boom)
	got, err := os.ReadFile(filepath.Join(path, "f"))
	require.NoError(t, err)
	assert.Equal(t, "old", string(got))
	assert.Equal(t, []string{"f"}, names(t, path), "nothing is left behind")
}

func TestWhatACrashLeftIsReplacedAndNotFollowed(t *testing.T) {
	t.Parallel()
	dir, path := open(t)
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
	require.NoError(t, os.Symlink(victim, filepath.Join(path, ".f.new")))
	require.NoError(t, atomicfile.Write(dir, "f", []byte("new"), 0o600, nil))
	assert.Equal(t, []string{"f"}, names(t, path))
	got, err := os.ReadFile(victim)
	require.NoError(t, err)
	assert.Equal(t, "mine", string(got))
}

func TestSymlinkReplacesALink(t *testing.T) {
	t.Parallel()
	dir, path := open(t)
	for _, target := range []string{"a", "b"} {
		require.NoError(t, atomicfile.Symlink(dir, target, "l"))
		got, err := os.Readlink(filepath.Join(path, "l"))
		require.NoError(t, err)
		assert.Equal(t, target, got)
	}
	require.NoError(t, atomicfile.Remove(dir, "l"))
	require.NoError(t, atomicfile.Remove(dir, "l"), "again")
	assert.Empty(t, names(t, path))
}

func TestLocksExcludeAndEndWithTheirContext(t *testing.T) {
	t.Parallel()
	for name, lock := range map[string]func(context.Context, string) (func(), error){
		"a file":   atomicfile.Lock,
		"a folder": atomicfile.LockDir,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := t.TempDir()
			if name == "a file" {
				path = filepath.Join(path, "lock")
			}
			unlock, err := lock(t.Context(), path)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err = lock(ctx, path)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			unlock()

			var inside, turns atomic.Int32
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					unlock, err := lock(t.Context(), path)
					if assert.NoError(t, err) {
						assert.Equal(t, int32(1), inside.Add(1), "one at a time")
						<-time.After(time.Millisecond) // so that a second one would be seen inside
						inside.Add(-1)
						turns.Add(1)
						unlock()
					}
				})
			}
			all.Wait()
			assert.Equal(t, int32(8), turns.Load())
		})
	}
}
