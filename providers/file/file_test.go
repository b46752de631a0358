package file_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/consumer"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/file"
	"github.com/keyturn/keyturn/providers/providertest"
)

func openStore(t require.TestingT, root, path string) providers.Store {
	s, err := file.Descriptor().Store.Open(providers.Environment{Now: time.Now}, &file.Account{Root: root}, &file.StoreConfig{Path: path})
	require.NoError(t, err)
	return s
}

func anywhere(string) error { return nil }

func openTarget(t require.TestingT, allow func(string) error, c file.TargetConfig) providers.Target {
	target, err := file.Descriptor().Target.Open(providers.Environment{AllowFile: allow}, nil, &c)
	require.NoError(t, err)
	return target
}

func bundle(pairs ...string) secret.Bundle {
	fields := map[string]secret.Value{}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i]] = secret.New([]byte(pairs[i+1]))
	}
	return secret.NewBundle(fields)
}

func TestStoreConformance(t *testing.T) {
	t.Parallel()
	providertest.Store(t, providertest.StoreSetup{Open: func(t providertest.T) providertest.StoreWorld {
		root := t.TempDir()
		return providertest.StoreWorld{
			Store: openStore(t, root, "team/a"), Other: openStore(t, root, "team/b"),
			Reopen: func() providers.Store { return openStore(t, root, "team/a") },
			Faults: providertest.Faults{Hang: func(providertest.Op) func() {
				unlock, err := atomicfile.Lock(t.Context(), filepath.Join(root, "team/a/lock"))
				require.NoError(t, err)
				return unlock
			}},
		}
	}})
}

func TestTargetConformance(t *testing.T) {
	t.Parallel()
	providertest.Target(t, providertest.TargetSetup{Open: func(t providertest.T) providertest.TargetWorld {
		root := t.TempDir()
		folder := func(instance string) string { return filepath.Join(root, instance) }
		path := func(instance string) string { return filepath.Join(folder(instance), "key") }
		for _, instance := range []string{"a", "b"} {
			require.NoError(t, os.Mkdir(folder(instance), 0o700))
		}
		return providertest.TargetWorld{
			Target: openTarget(t, anywhere, file.TargetConfig{Path: filepath.Join(root, "{instance}", "key"), Mode: "0640"}),
			Read: func(instance string) (string, error) {
				data, err := os.ReadFile(path(instance))
				if entries, _ := os.ReadDir(folder(instance)); os.IsNotExist(err) && len(entries) == 0 {
					return "", nil
				}
				return string(data), err
			},
			Mark: func(instance string) any {
				info, err := os.Stat(path(instance))
				require.NoError(t, err)
				return [2]any{info.ModTime(), info.Sys().(*syscall.Stat_t).Ino}
			},
			Mode:     func(instance string) fs.FileMode { info, _ := os.Stat(path(instance)); return info.Mode() },
			WantMode: 0o640,
			Break:    func(instance string) { require.NoError(t, os.Remove(folder(instance))) },
			Faults: providertest.Faults{Hang: func(providertest.Op) func() {
				unlock, err := atomicfile.LockDir(t.Context(), folder("a"))
				require.NoError(t, err)
				return unlock
			}},
		}
	}})
}

func TestTheStoreIsPrivate(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := openStore(t, root, "team/a")
	id, err := s.Stage(t.Context(), "t", bundle("value", "secret-value-1"))
	require.NoError(t, err)
	require.NoError(t, s.Promote(t.Context(), "", id))
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		info, statErr := d.Info()
		require.NoError(t, statErr)
		switch {
		case path == root || info.Mode()&fs.ModeSymlink != 0:
		case d.IsDir():
			assert.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
		default:
			assert.Equal(t, fs.FileMode(0o600), info.Mode(), path)
		}
		return err
	}))
	state, err := os.ReadFile(filepath.Join(root, "team/a/state.json"))
	require.NoError(t, err)
	assert.NotContains(t, string(state), "secret-value-1")
}

// A consumer that reads the store's file by itself gets CURRENT, in the documented place and form.
func TestAConsumerReadsCurrent(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := openStore(t, root, "a")
	first, err := s.Stage(t.Context(), "t1", bundle("value", "one", "endpoint", "x"))
	require.NoError(t, err)
	require.NoError(t, s.Promote(t.Context(), "", first))
	second, err := s.Stage(t.Context(), "t2", bundle("value", "two"))
	require.NoError(t, err)
	reads := func(want string) {
		t.Helper()
		f, err := consumer.Open(filepath.Join(root, "a", "current"), consumer.Options{Format: consumer.JSON})
		require.NoError(t, err)
		defer func() { _ = f.Close() }()
		assert.Equal(t, want, f.Key())
	}
	reads("one")
	require.NoError(t, s.Promote(t.Context(), first, second))
	reads("two")
}

func TestADamagedStoreIsNotOverwritten(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"empty":                     "",
		"cut short":                 `{"schema":"keyturn/file-store/v1","last":`,
		"of a later keyturn":        `{"schema":"keyturn/file-store/v1","last":0,"versions":[],"labels":{},"more":1}`,
		"a revision of nothing":     `{"schema":"keyturn/file-store/v1","last":0,"versions":[],"labels":{},"revision":"r"}`,
		"another schema":            `{"schema":"keyturn/file-store/v2","last":0,"versions":[],"labels":{}}`,
		"no number left":            `{"schema":"keyturn/file-store/v1","last":9223372036854775807,"versions":[],"labels":{}}`,
		"a label on nothing":        `{"schema":"keyturn/file-store/v1","last":0,"versions":[],"labels":{"CURRENT":"v1"}}`,
		"a version that is a path":  `{"schema":"keyturn/file-store/v1","last":9,"versions":[{"id":"../x","token":"t","fields":["value"],"createdAt":"2026-01-01T00:00:00Z","labelledAt":"2026-01-01T00:00:00Z"}],"labels":{}}`,
		"a version beyond the last": `{"schema":"keyturn/file-store/v1","last":0,"versions":[{"id":"v1","token":"t","fields":["value"],"createdAt":"2026-01-01T00:00:00Z","labelledAt":"2026-01-01T00:00:00Z"}],"labels":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			s := openStore(t, root, "a")
			id, err := s.Stage(t.Context(), "t", bundle("value", "one"))
			require.NoError(t, err)
			state := filepath.Join(root, "a", "state.json")
			require.NoError(t, os.WriteFile(state, []byte(content), 0o600))

			_, err = s.Versions(t.Context())
			require.ErrorIs(t, err, file.ErrMalformed)
			_, err = s.Stage(t.Context(), "t2", bundle("value", "two"))
			require.ErrorIs(t, err, file.ErrMalformed)
			require.ErrorIs(t, s.Promote(t.Context(), "", id), file.ErrMalformed)
			_, err = s.PutMetadata(t.Context(), key.Metadata{})
			require.ErrorIs(t, err, file.ErrMalformed)
			got, err := os.ReadFile(state)
			require.NoError(t, err)
			assert.Equal(t, content, string(got))
			assert.FileExists(t, filepath.Join(root, "a", "versions", id+".json"), "no value is thrown away")
		})
	}
}

func TestAMissingValueIsNoMissingVersion(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := openStore(t, root, "a")
	id, err := s.Stage(t.Context(), "t", bundle("value", "one"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(root, "a", "versions", id+".json")))
	_, err = s.Read(t.Context(), id)
	require.ErrorIs(t, err, file.ErrMalformed)
	assert.NotErrorIs(t, err, providers.ErrNotFound, "somebody removed it; it was not pruned")
}

func TestAStoreWhereEverybodyMayWriteIsRefused(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.Chmod(root, 0o777)) //nolint:gosec // that is the point
	s := openStore(t, root, "a")
	_, err := s.Stage(t.Context(), "t", bundle("value", "one"))
	require.ErrorIs(t, err, providers.ErrDenied)
	require.NoError(t, os.Chmod(root, 0o777|fs.ModeSticky))
	_, err = s.Stage(t.Context(), "t", bundle("value", "one"))
	assert.NoError(t, err)
}

func TestALinkLeadsNobodyOutOfTheRoot(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(root, "a")))
	s := openStore(t, root, "a")
	_, err := s.Stage(t.Context(), "t", bundle("value", "one"))
	require.Error(t, err)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	assert.Empty(t, entries)
}

func TestFormats(t *testing.T) {
	t.Parallel()
	key := bundle("value", "ktg_A+/=b", "endpoint", `https://x/?a="b"&c=$d`)
	for name, c := range map[string]struct {
		config file.TargetConfig
		want   string
	}{
		"plain is the key and nothing else": {file.TargetConfig{}, "ktg_A+/=b"},
		"plain of another field":            {file.TargetConfig{Format: file.Plain, Field: "endpoint"}, `https://x/?a="b"&c=$d`},
		"json has all fields":               {file.TargetConfig{Format: file.JSON}, `{"endpoint":"https://x/?a=\"b\"\u0026c=$d","value":"ktg_A+/=b"}` + "\n"},
		"json of some fields":               {file.TargetConfig{Format: file.JSON, Fields: []string{"value"}}, `{"value":"ktg_A+/=b"}` + "\n"},
		"env without quotes where it can":   {file.TargetConfig{Format: file.Env, Variables: map[string]string{"value": "KEY"}}, "KEY=ktg_A+/=b\n"},
		"env for docker":                    {file.TargetConfig{Format: file.Env, Reader: file.Docker, Variables: map[string]string{"endpoint": "URL"}}, `URL=https://x/?a="b"&c=$d` + "\n"},
		"env with quotes where it must": {file.TargetConfig{Format: file.Env, Reader: file.Systemd, Variables: map[string]string{"value": "KEY", "endpoint": "URL"}},
			"URL=\"https://x/?a=\\\"b\\\"&c=\\$d\"\nKEY=ktg_A+/=b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.Path = filepath.Join(t.TempDir(), "key")
			require.NoError(t, openTarget(t, anywhere, c.config).Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: key}))
			got, err := os.ReadFile(c.config.Path)
			require.NoError(t, err)
			assert.Equal(t, c.want, string(got))
		})
	}
}

// What a target writes, package consumer reads.
func TestFormatsAreReadByConsumers(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"simple", `a b"c\d$e` + "`f'g", "ü=#;"} {
		for format, options := range map[file.Format]consumer.Options{
			file.Plain: {Format: consumer.Plain},
			file.JSON:  {Format: consumer.JSON},
			file.Env:   {Format: consumer.Env, Variables: map[string]string{"value": "KEY"}},
		} {
			config := file.TargetConfig{Path: filepath.Join(t.TempDir(), "key"), Format: format, Variables: options.Variables}
			if format == file.Env {
				config.Reader = file.Shell
			}
			require.NoError(t, openTarget(t, anywhere, config).Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: bundle("value", value)}))
			f, err := consumer.Open(config.Path, options)
			require.NoError(t, err)
			assert.Equal(t, value, f.Key(), "%s", format)
			require.NoError(t, f.Close())
		}
	}
}

func TestAKeyThatAFormatCannotHoldIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config file.TargetConfig
		key    secret.Bundle
	}{
		"a line end in env":    {file.TargetConfig{Format: file.Env, Variables: map[string]string{"value": "KEY"}}, bundle("value", "secret-a\nEVIL=1")},
		"a field is missing":   {file.TargetConfig{Format: file.JSON, Fields: []string{"value", "other"}}, bundle("value", "secret-a")},
		"plain has no value":   {file.TargetConfig{}, bundle("other", "secret-a")},
		"the value is empty":   {file.TargetConfig{}, bundle("value", "")},
		"env lacks a variable": {file.TargetConfig{Format: file.Env, Variables: map[string]string{"other": "KEY"}}, bundle("value", "secret-a")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.Path = filepath.Join(t.TempDir(), "key")
			err := openTarget(t, anywhere, c.config).Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: c.key})
			require.ErrorIs(t, err, providers.ErrInvalid)
			assert.NotContains(t, err.Error(), "secret-a")
			assert.NoFileExists(t, c.config.Path)
		})
	}
}

// A new key that a reader would get otherwise is not taken; one that a consumer has already is written as before.
func TestAKeyThatAReaderWouldGetOtherwiseDoesNotFit(t *testing.T) {
	t.Parallel()
	env := map[string]string{"value": "KEY"}
	for name, c := range map[string]struct {
		config  file.TargetConfig
		value   string
		written string
		fits    bool
	}{
		"a blank in env, of which nobody says who reads it": {file.TargetConfig{Format: file.Env, Variables: env}, "secret a", "KEY=\"secret a\"\n", false},
		"one for systemd":               {file.TargetConfig{Format: file.Env, Reader: file.Systemd, Variables: env}, "secret a", "KEY=\"secret a\"\n", true},
		"what a shell would expand":     {file.TargetConfig{Format: file.Env, Variables: env}, "~secret", "KEY=\"~secret\"\n", false},
		"a blank at the end for docker": {file.TargetConfig{Format: file.Env, Reader: file.Docker, Variables: env}, "secret-a ", "KEY=secret-a \n", false},
		"a blank in it for docker":      {file.TargetConfig{Format: file.Env, Reader: file.Docker, Variables: env}, "secret a", "KEY=secret a\n", true},
		"the end of a line in plain":    {file.TargetConfig{}, "secret-a\n", "secret-a\n", false},
		"one in JSON":                   {file.TargetConfig{Format: file.JSON}, "secret-a\n", `{"value":"secret-a\n"}` + "\n", true},
		"a field that is missing":       {file.TargetConfig{Field: "other"}, "secret-a", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.Path = filepath.Join(t.TempDir(), "key")
			target := openTarget(t, anywhere, c.config)
			err := target.(providers.Fitter).Fits(bundle("value", c.value))
			if c.fits {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, providers.ErrInvalid)
				assert.NotContains(t, err.Error(), "secret")
			}
			err = target.Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: bundle("value", c.value)})
			if c.written == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			got, err := os.ReadFile(c.config.Path)
			require.NoError(t, err)
			assert.Equal(t, c.written, string(got))
		})
	}
}

func TestWhereATargetDoesNotWrite(t *testing.T) {
	t.Parallel()
	deliver := func(t *testing.T, allow func(string) error, path string) error {
		t.Helper()
		target := openTarget(t, allow, file.TargetConfig{Path: path})
		d := providers.Delivery{Instance: "a", Key: key.Ref{KeyID: "k"}, Bundle: bundle("value", "secret-a")}
		err := target.Deliver(t.Context(), d)
		if err != nil {
			assert.Error(t, target.Reach(t.Context(), "a"), "reaching tells beforehand")
		}
		return err
	}
	t.Run("through a link at the path", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		victim, link := filepath.Join(dir, "victim"), filepath.Join(dir, "key")
		require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
		require.NoError(t, os.Symlink(victim, link))
		require.ErrorIs(t, deliver(t, anywhere, link), providers.ErrDenied)
		got, _ := os.ReadFile(victim)
		assert.Equal(t, "mine", string(got))
		_, err := os.Readlink(link)
		assert.NoError(t, err, "the link is still there")
	})
	t.Run("over a folder", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.Mkdir(path, 0o700))
		require.ErrorIs(t, deliver(t, anywhere, path), providers.ErrDenied)
	})
	t.Run("where everybody may write", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o777)) //nolint:gosec // that is the point
		require.ErrorIs(t, deliver(t, anywhere, filepath.Join(dir, "key")), providers.ErrDenied)
		require.NoError(t, os.Chmod(dir, 0o777|fs.ModeSticky))
		require.NoError(t, deliver(t, anywhere, filepath.Join(dir, "key")))
	})
	t.Run("where there is no folder", func(t *testing.T) {
		t.Parallel()
		require.ErrorIs(t, deliver(t, anywhere, filepath.Join(t.TempDir(), "none", "key")), providers.ErrNotFound)
	})
	t.Run("outside its bounds, also where a link leads there", func(t *testing.T) {
		t.Parallel()
		root, outside := t.TempDir(), t.TempDir()
		within := func(path string) error {
			if strings.HasPrefix(path, root+"/") {
				return nil
			}
			return providers.ErrDenied
		}
		require.NoError(t, os.Symlink(outside, filepath.Join(root, "out")))
		require.ErrorIs(t, deliver(t, within, filepath.Join(root, "out", "key")), providers.ErrDenied)
		require.ErrorIs(t, deliver(t, within, filepath.Join(outside, "key")), providers.ErrDenied)
		require.NoError(t, deliver(t, within, filepath.Join(root, "key")))
		entries, err := os.ReadDir(outside)
		require.NoError(t, err)
		assert.Empty(t, entries)
	})
}

// The bounds may have been reloaded since: they are asked right before writing.
func TestBoundsAreAskedRightBeforeWriting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	asked := 0
	allow := func(string) error {
		if asked++; asked > 1 {
			return providers.ErrDenied
		}
		return nil
	}
	err := openTarget(t, allow, file.TargetConfig{Path: path}).Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: bundle("value", "x")})
	require.ErrorIs(t, err, providers.ErrDenied)
	assert.NoFileExists(t, path)
}

func TestADeliveryKeepsTheOwnerAndRemovesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, half := filepath.Join(dir, "key"), filepath.Join(dir, ".key.new")
	target := openTarget(t, anywhere, file.TargetConfig{Path: path})
	owner := func() (uint32, uint32) {
		info, err := os.Stat(path)
		require.NoError(t, err)
		st := info.Sys().(*syscall.Stat_t)
		return st.Uid, st.Gid
	}
	deliver := func(value string) {
		require.NoError(t, os.WriteFile(half, []byte("half of a secret"), 0o600))
		require.NoError(t, target.Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: bundle("value", value)}))
		assert.NoFileExists(t, half)
	}
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir, 1234, 2345))
	}
	deliver("one")
	deliver("one") // unchanged, and still cleared
	if os.Geteuid() == 0 {
		uid, gid := owner()
		assert.Equal(t, [2]uint32{1234, 2345}, [2]uint32{uid, gid}, "a new file is its folder's owner's")
		require.NoError(t, os.Chown(path, 3456, 4567))
		deliver("two")
		uid, gid = owner()
		assert.Equal(t, [2]uint32{3456, 4567}, [2]uint32{uid, gid}, "a replaced one keeps its own")
	}
}

func TestAWrongModeIsMended(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, []byte("one"), 0o644)) //nolint:gosec // that is the point
	require.NoError(t, openTarget(t, anywhere, file.TargetConfig{Path: path, Mode: "0600"}).Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: bundle("value", "one")}))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
}

func TestProblems(t *testing.T) {
	t.Parallel()
	target := func(edit func(*file.TargetConfig)) *file.TargetConfig {
		c := &file.TargetConfig{Path: "/run/keys/{instance}/k"}
		edit(c)
		return c
	}
	for name, c := range map[string]struct {
		config interface{ Problems() []strictyaml.Problem }
		want   []string
	}{
		"an account":                   {&file.Account{Root: "/var/lib/keyturn"}, nil},
		"a relative root":              {&file.Account{Root: "store"}, []string{"root"}},
		"the root of everything":       {&file.Account{Root: "/"}, []string{"root"}},
		"no root":                      {&file.Account{}, []string{"root"}},
		"a secret":                     {&file.StoreConfig{Path: "team/payments-api.v2"}, nil},
		"no secret":                    {&file.StoreConfig{}, []string{"path"}},
		"a way out":                    {&file.StoreConfig{Path: "../x"}, []string{"path"}},
		"an absolute secret":           {&file.StoreConfig{Path: "/x"}, []string{"path"}},
		"a hidden name":                {&file.StoreConfig{Path: "a/.x"}, []string{"path"}},
		"a name of the store's own":    {&file.StoreConfig{Path: "a/versions"}, []string{"path"}},
		"too long":                     {&file.StoreConfig{Path: strings.Repeat("a/", 600) + "a"}, []string{"path"}},
		"a target":                     {target(func(*file.TargetConfig) {}), nil},
		"modes":                        {target(func(c *file.TargetConfig) { c.Mode = "0440" }), nil},
		"no path":                      {target(func(c *file.TargetConfig) { c.Path = "" }), []string{"path"}},
		"a relative path":              {target(func(c *file.TargetConfig) { c.Path = "k" }), []string{"path"}},
		"a path that is not clean":     {target(func(c *file.TargetConfig) { c.Path = "/a/../k" }), []string{"path"}},
		"another placeholder":          {target(func(c *file.TargetConfig) { c.Path = "/a/{key}" }), []string{"path"}},
		"a mode for the world":         {target(func(c *file.TargetConfig) { c.Mode = "0644" }), []string{"mode"}},
		"a mode the group may write":   {target(func(c *file.TargetConfig) { c.Mode = "0660" }), []string{"mode"}},
		"a mode the owner cannot read": {target(func(c *file.TargetConfig) { c.Mode = "0240" }), []string{"mode"}},
		"a mode with more bits":        {target(func(c *file.TargetConfig) { c.Mode = "4600" }), []string{"mode"}},
		"a mode that is no number":     {target(func(c *file.TargetConfig) { c.Mode = "rw" }), []string{"mode"}},
		"a format that is none":        {target(func(c *file.TargetConfig) { c.Format = "toml" }), []string{"format"}},
		"an unknown reader of env": {target(func(c *file.TargetConfig) {
			c.Format, c.Variables, c.Reader = file.Env, map[string]string{"value": "A"}, "perl"
		}), []string{"reader"}},
		"a reader of plain": {target(func(c *file.TargetConfig) { c.Reader = file.Shell }), []string{"reader"}},
		"env without names": {target(func(c *file.TargetConfig) { c.Format = file.Env }), []string{"variables"}},
		"fields for plain":  {target(func(c *file.TargetConfig) { c.Fields = []string{"value"} }), []string{"fields"}},
		"a field for json":  {target(func(c *file.TargetConfig) { c.Format, c.Field = file.JSON, "value" }), []string{"field"}},
		"no name of a variable": {target(func(c *file.TargetConfig) {
			c.Format, c.Variables = file.Env, map[string]string{"value": "A=B"}
		}), []string{"variables.value"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range c.config.Problems() {
				got = append(got, p.Field)
				assert.NotEmpty(t, p.What)
				assert.NotEmpty(t, p.Write)
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestStateIsOneJSONObject(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := openStore(t, root, "a")
	_, err := s.PutMetadata(t.Context(), key.Metadata{Generation: 3})
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(root, "a", "state.json"))
	require.NoError(t, err)
	var state struct {
		Schema   string
		Metadata key.Metadata
	}
	require.NoError(t, json.Unmarshal(data, &state))
	assert.Equal(t, "keyturn/file-store/v1", state.Schema)
	assert.Equal(t, int64(3), state.Metadata.Generation)
}

// What was written before metadata had revisions gets one by what it says.
func TestMetadataThatHasNoRevisionYet(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "a"), 0o700))
	content := `{"schema":"keyturn/file-store/v1","last":0,"versions":[],"labels":{},"metadata":{"generation":3}}`
	require.NoError(t, os.WriteFile(filepath.Join(root, "a", "state.json"), []byte(content), 0o600))
	s := openStore(t, root, "a")
	m, err := s.Metadata(t.Context())
	require.NoError(t, err)
	assert.NotEmpty(t, m.Revision)
	assert.Equal(t, int64(3), m.Generation)
	_, err = s.PutMetadata(t.Context(), key.Metadata{Generation: 4})
	require.ErrorIs(t, err, providers.ErrConflict)
	m.Generation = 4
	_, err = s.PutMetadata(t.Context(), m)
	require.NoError(t, err)
}
