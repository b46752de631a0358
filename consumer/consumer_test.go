package consumer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/consumer"
	"github.com/keyturn/keyturn/internal/secret"
)

const (
	first  = "ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt"
	second = "ktg_aB4kLm9QwErTy6UiOp2ZxCv8BnM1sDfG"
)

// put replaces the file as keyturn does: another file takes its name.
func put(t testing.TB, path, content string) {
	next := path + ".next"
	require.NoError(t, os.WriteFile(next, []byte(content), 0o600))
	require.NoError(t, os.Rename(next, path))
}

func open(t testing.TB, content string, o consumer.Options) (*consumer.File, string) {
	path := filepath.Join(t.TempDir(), "key")
	put(t, path, content)
	if o.Interval == 0 {
		o.Interval = 2 * time.Millisecond
	}
	f, err := consumer.Open(path, o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.Close()) })
	return f, path
}

func becomes(t testing.TB, f *consumer.File, want string) {
	require.Eventually(t, func() bool { return f.Key() == want }, time.Minute, time.Millisecond)
}

// looks passes the time of many looks at the file, in a test whose time is synctest's.
func looks() { <-time.After(time.Second) }

func TestANewKeyIsUsedWithoutARestart(t *testing.T) {
	t.Parallel()
	var changes atomic.Int32
	f, path := open(t, first+"\n", consumer.Options{OnChange: func() { changes.Add(1) }})
	assert.Equal(t, first, f.Key())
	assert.Equal(t, map[string]string{"value": first}, f.Fields())
	before, loaded := f.Fingerprint(), f.LoadedAt()
	assert.Zero(t, changes.Load(), "the first key is no change")

	put(t, path, second)
	becomes(t, f, second)
	assert.NotEqual(t, before, f.Fingerprint())
	assert.True(t, f.LoadedAt().After(loaded))
	require.Eventually(t, func() bool { return changes.Load() == 1 }, time.Minute, time.Millisecond)

	put(t, path, first) // the way back, of a rollback
	becomes(t, f, first)
	assert.Equal(t, before, f.Fingerprint())
}

func TestAFileThatIsWrittenInPlaceIsFollowedToo(t *testing.T) {
	t.Parallel()
	f, path := open(t, first, consumer.Options{})
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(second), 0o600))
	// The same size and, on a coarse clock, the same time: only the content tells.
	require.NoError(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	becomes(t, f, second)
}

func TestTheSameKeyAgainIsNoChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, path := open(t, first, consumer.Options{OnChange: func() { t.Error("it changed") }})
		loaded := f.LoadedAt()
		for range 5 {
			put(t, path, first+"\n")
			looks()
		}
		assert.Equal(t, loaded, f.LoadedAt())
	})
}

func TestTheLastGoodKeyStaysInUse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		format  consumer.Format
		good    func(key string) string
		spoil   func(t *testing.T, path string)
		problem string
	}{
		"the file is missing":      {consumer.Plain, plain, func(t *testing.T, p string) { require.NoError(t, os.Remove(p)) }, "no such file"},
		"the file is empty":        {consumer.Plain, plain, func(t *testing.T, p string) { put(t, p, "") }, "there is no key in it"},
		"the file is blank":        {consumer.Plain, plain, func(t *testing.T, p string) { put(t, p, " \n") }, "there is no key in it"},
		"the file is cut off":      {consumer.JSON, object, func(t *testing.T, p string) { put(t, p, object(second)[:20]) }, "not a JSON object"},
		"the field is missing":     {consumer.JSON, object, func(t *testing.T, p string) { put(t, p, `{"other":"`+second+`"}`) }, `the field "value" is missing`},
		"the field is empty":       {consumer.JSON, object, func(t *testing.T, p string) { put(t, p, object("")) }, `the field "value" is missing or empty`},
		"the field is no string":   {consumer.JSON, object, func(t *testing.T, p string) { put(t, p, `{"value":7}`) }, `the field "value" is missing or empty`},
		"the variable is missing":  {consumer.Env, variable, func(t *testing.T, p string) { put(t, p, "# value="+second) }, `the field "value" is missing`},
		"the file is a folder":     {consumer.Plain, plain, folder, "is a directory"},
		"the file is beyond bound": {consumer.Plain, plain, func(t *testing.T, p string) { put(t, p, second+strings.Repeat("x", 64<<10)) }, "longer than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				told := make(chan error, 100)
				f, path := open(t, c.good(first), consumer.Options{Format: c.format, OnError: func(err error) { told <- err }})
				fingerprint := f.Fingerprint()
				c.spoil(t, path)
				looks()
				require.Len(t, told, 1, "trouble is told once")
				err := <-told
				require.ErrorContains(t, err, c.problem)
				assert.NotContains(t, err.Error(), second)
				assert.Equal(t, first, f.Key())
				assert.Equal(t, fingerprint, f.Fingerprint())

				put(t, path, c.good(second))
				looks()
				assert.Equal(t, second, f.Key())
				assert.Empty(t, told)
			})
		})
	}
}

// folder puts a folder in the place of the file, in one step.
func folder(t *testing.T, path string) {
	require.NoError(t, os.Symlink(t.TempDir(), path+".next"))
	require.NoError(t, os.Rename(path+".next", path))
}

func plain(key string) string    { return key }
func object(key string) string   { return fmt.Sprintf(`{"foreign":"x","value":%q}`, key) }
func variable(key string) string { return "OTHER=x\nvalue=" + key + "\n" }

func TestTroubleIsToldAgainAfterItWasOver(t *testing.T) {
	t.Parallel()
	told := make(chan error, 100)
	f, path := open(t, first, consumer.Options{OnError: func(err error) { told <- err }})
	for _, key := range []string{second, first} {
		require.NoError(t, os.Remove(path))
		require.ErrorIs(t, <-told, os.ErrNotExist)
		put(t, path, key)
		becomes(t, f, key)
	}
}

// A file may go at any moment of a look at it.
func TestAFileThatGoesIsToldOnce(t *testing.T) {
	t.Parallel()
	told := make(chan error, 100)
	f, path := open(t, first, consumer.Options{Interval: time.Nanosecond, OnError: func(err error) { told <- err }})
	for n := range 100 {
		require.NoError(t, os.Remove(path))
		require.ErrorIs(t, <-told, os.ErrNotExist)
		<-time.After(time.Millisecond) // some more looks
		key := fmt.Sprint(first, n)
		put(t, path, key)
		becomes(t, f, key)
		require.Empty(t, told)
	}
}

func TestFormats(t *testing.T) {
	t.Parallel()
	two := []string{"accessKeyId", "secretAccessKey"}
	aws := map[string]string{"accessKeyId": "AKIA1", "secretAccessKey": `s"e'c\r$t`}
	for name, c := range map[string]struct {
		content string
		options consumer.Options
		want    map[string]string
	}{
		"plain with the line end of Windows": {first + "\r\n", consumer.Options{}, map[string]string{"value": first}},
		"plain under another name":           {first, consumer.Options{Fields: []string{"token"}}, map[string]string{"token": first}},
		"plain keeps inner space":            {" a b \n", consumer.Options{}, map[string]string{"value": " a b "}},
		"JSON of two fields": {
			`{"accessKeyId":"AKIA1","secretAccessKey":"s\"e'c\\r$t","host":"db"}`, consumer.Options{Format: consumer.JSON, Fields: two}, aws,
		},
		"an env file": {
			"# keys\n\nexport AWS_ID = AKIA1\nAWS_SECRET=\"s\\\"e'c\\\\r\\$t\"\n",
			consumer.Options{Format: consumer.Env, Fields: two, Variables: map[string]string{"accessKeyId": "AWS_ID", "secretAccessKey": "AWS_SECRET"}}, aws,
		},
		"an env file with single quotes": {`value='a "b" \c $d'`, consumer.Options{Format: consumer.Env}, map[string]string{"value": `a "b" \c $d`}},
		"an env file with an equals":     {"value=a=b==\r\n", consumer.Options{Format: consumer.Env}, map[string]string{"value": "a=b=="}},
		"an env file with half a quote":  {`value="a`, consumer.Options{Format: consumer.Env}, map[string]string{"value": `"a`}},
		"the last line of a name counts": {"value=a\nvalue=b", consumer.Options{Format: consumer.Env}, map[string]string{"value": "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := open(t, c.content, c.options)
			assert.Equal(t, c.want, f.Fields())
			assert.Equal(t, c.want[append(c.options.Fields, "value")[0]], f.Key())
		})
	}
}

func TestTwoFieldsAreAlwaysOfOneKey(t *testing.T) {
	t.Parallel()
	write := func(n int) string { return fmt.Sprintf(`{"id":"id-%d","secret":"secret-%d"}`, n, n) }
	f, path := open(t, write(0), consumer.Options{Format: consumer.JSON, Fields: []string{"id", "secret"}, Interval: time.Millisecond})
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					got := f.Fields()
					if strings.TrimPrefix(got["id"], "id-") != strings.TrimPrefix(got["secret"], "secret-") {
						t.Errorf("half of one key, half of another: %v", got)
						return
					}
				}
			}
		})
	}
	for n := range 50 {
		put(t, path, write(n))
		becomes(t, f, fmt.Sprintf("id-%d", n))
	}
	close(stop)
	readers.Wait()
}

func TestOpenFailsWithoutAKeyOrWithOptionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	_, err := consumer.Open(path, consumer.Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
	put(t, path, "\n")
	_, err = consumer.Open(path, consumer.Options{})
	require.ErrorIs(t, err, consumer.ErrNoKey)
	put(t, path, first)
	for _, o := range []consumer.Options{{Format: "yaml"}, {Fields: []string{"a", "b"}}, {Interval: -1}} {
		_, err = consumer.Open(path, o)
		require.Error(t, err)
	}
}

func TestCloseEndsTheFollowing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, path := open(t, first, consumer.Options{})
		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
		put(t, path, second)
		<-time.After(time.Minute)
		assert.Equal(t, first, f.Key())
	})
}

func TestHandlerAttestsTheKeyInUseAndNeverTellsIt(t *testing.T) {
	t.Parallel()
	f, path := open(t, first, consumer.Options{})
	ask := func(method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		f.Handler().ServeHTTP(w, httptest.NewRequest(method, "/keyturn", nil))
		assert.NotContains(t, w.Body.String(), f.Key())
		return w
	}
	for _, key := range []string{first, second} {
		put(t, path, key)
		becomes(t, f, key)
		w := ask(http.MethodGet)
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		var got map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		assert.Equal(t, map[string]any{
			"key":      secret.Single(secret.New([]byte(key))).Fingerprint(),
			"loadedAt": f.LoadedAt().Format(time.RFC3339Nano),
		}, got)
	}
	assert.Equal(t, http.StatusOK, ask(http.MethodHead).Code)
	assert.Equal(t, http.StatusMethodNotAllowed, ask(http.MethodPost).Code)
}

func TestAWeakKeyIsAttestedByItsID(t *testing.T) {
	t.Parallel()
	weak, _ := open(t, "hunter2", consumer.Options{})
	assert.Empty(t, weak.Fingerprint())
	w := httptest.NewRecorder()
	weak.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	assert.NotContains(t, w.Body.String(), "hunter2")

	named, _ := open(t, "id7.hunter2", consumer.Options{KeyID: func(fields map[string]string) string {
		id, _, _ := strings.Cut(fields["value"], ".")
		return id
	}})
	w = httptest.NewRecorder()
	named.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Contains(t, w.Body.String(), `"key":"id7"`)
	assert.NotContains(t, w.Body.String(), "hunter2")
}

func TestTheShellLineOfTheDocumentationGivesTheFingerprint(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sha256sum"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("sha256sum is missing: apt-get install coreutils")
		}
		t.Skip("sha256sum is missing: apt-get install coreutils")
	}
	f, _ := open(t, first, consumer.Options{})
	line := exec.Command("/bin/sh", "-c", `printf 'keyturn/fingerprint/v1\0value\0%s\0' "$KEY" | sha256sum | cut -c1-32`)
	line.Env, line.Stderr = append(os.Environ(), "KEY="+first), os.Stderr
	out, err := line.Output()
	require.NoError(t, err)
	assert.Equal(t, "fp:"+strings.TrimSpace(string(out)), f.Fingerprint())
}

func TestThePackageNeedsTheStandardLibraryAlone(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		require.NoError(t, err, "%s", failed.Stderr)
	}
	require.NoError(t, err)
	assert.Equal(t, "github.com/keyturn/keyturn/consumer", strings.TrimSpace(string(out)))
}
