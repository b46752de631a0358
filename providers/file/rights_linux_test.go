package file_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/file"
)

func one(value string) providers.Delivery {
	return providers.Delivery{Instance: "a", Bundle: bundle("value", value)}
}

// Without a mode in the inventory a file keeps the one that it has, so that whoever could read it can; one that everybody could read is
// said so before anything is changed.
func TestAFileKeepsItsMode(t *testing.T) {
	t.Parallel()
	for has, want := range map[fs.FileMode]fs.FileMode{0: 0o600, 0o600: 0o600, 0o640: 0o640, 0o400: 0o400, 0o644: 0, 0o660: 0} {
		path := filepath.Join(t.TempDir(), "key")
		if has != 0 {
			require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
			require.NoError(t, os.Chmod(path, has))
		}
		target := openTarget(t, anywhere, file.TargetConfig{Path: path})
		reached, delivered := target.Reach(t.Context(), "a"), target.Deliver(t.Context(), one("new"))
		if want == 0 {
			require.ErrorContains(t, reached, "chmod 0640")
			require.ErrorIs(t, reached, providers.ErrDenied)
			require.Equal(t, reached.Error()[len("reaching"):], delivered.Error()[len("delivering key  to"):])
			want = has
		} else {
			require.NoError(t, reached)
			require.NoError(t, delivered)
		}
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode(), "from %04o", has)
	}
}

// What a mode in the inventory changes for who may read the file is said before.
func TestAModeThatChangesIsTold(t *testing.T) {
	t.Parallel()
	for has, says := range map[fs.FileMode]string{
		0: "", 0o600: "", 0o640: "the mode of its file, 0640, becomes 0600, and a rollback does not give it back", 0o400: "0400, becomes 0600",
	} {
		path := filepath.Join(t.TempDir(), "key")
		if has != 0 {
			require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
			require.NoError(t, os.Chmod(path, has))
		}
		for mode, says := range map[string]string{"0600": says, "": ""} {
			changer, can := openTarget(t, anywhere, file.TargetConfig{Path: path, Mode: mode}).(providers.RightsChanger)
			require.True(t, can)
			told, err := changer.ChangesRights(t.Context(), "a")
			require.NoError(t, err)
			assert.Contains(t, told, says)
			assert.Equal(t, says == "", told == "", told)
		}
	}
}

// An access control list, and whatever else is attached to a file, stays.
func TestAFileKeepsItsAttributes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	for name, value := range map[string]string{
		"user.team": "payments",
		// Version 2; the owner rw, user 1234 r, the group nothing, the mask r, others nothing.
		"system.posix_acl_access": "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xd2\x04\x00\x00" +
			"\x04\x00\x00\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff",
	} {
		if err := unix.Setxattr(path, name, []byte(value), 0); err != nil {
			t.Skipf("the file system of %s keeps no %s: %v", dir, name, err)
		}
	}
	have := func(name string) string {
		value := make([]byte, 200)
		n, err := unix.Getxattr(path, name, value)
		require.NoError(t, err, name)
		return string(value[:n])
	}
	before := map[string]string{"user.team": have("user.team"), "system.posix_acl_access": have("system.posix_acl_access")}
	target := openTarget(t, anywhere, file.TargetConfig{Path: path})
	require.NoError(t, target.Reach(t.Context(), "a"))
	for _, value := range []string{"new", "old"} {
		require.NoError(t, target.Deliver(t.Context(), one(value)))
		for name, was := range before {
			assert.Equal(t, was, have(name), name)
		}
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 1)
}

// What a folder gives to each new file in it, a file that is replaced does not get.
func TestAFileGetsNoListOfItsFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	// Version 2; the owner rwx, user 1234 r, the group nothing, the mask r, others nothing.
	list := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xd2\x04\x00\x00" +
		"\x04\x00\x00\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	if err := unix.Setxattr(dir, "system.posix_acl_default", []byte(list), 0); err != nil {
		t.Skipf("the file system of %s keeps no lists: %v", dir, err)
	}
	require.NoError(t, openTarget(t, anywhere, file.TargetConfig{Path: path}).Deliver(t.Context(), one("new")))
	_, err := unix.Getxattr(path, "system.posix_acl_access", nil)
	require.ErrorIs(t, err, unix.ENODATA)
}

// A new file is of its folder's group, where the worker may give it; where not, it is written all the same, and of the worker's.
func TestANewFileIsOfItsFoldersGroup(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can prepare this; run the tests as root")
	}
	const mine, foreign = 2345, 4567
	for group, want := range map[int]uint32{mine: mine, foreign: 65534} {
		dir, err := os.MkdirTemp("", "keyturn") // whose parents everybody may pass
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
		require.NoError(t, os.Chown(dir, 65534, group))
		path := filepath.Join(dir, "key")
		as(t, 65534, func() {
			target := openTarget(t, anywhere, file.TargetConfig{Path: path, Mode: "0640"})
			assert.NoError(t, target.Reach(t.Context(), "a"))
			assert.NoError(t, target.Deliver(t.Context(), one("new")))
		}, mine)
		info, err := os.Stat(path)
		require.NoError(t, err)
		is := info.Sys().(*syscall.Stat_t)
		assert.Equal(t, [2]uint32{65534, want}, [2]uint32{is.Uid, is.Gid}, "in a folder of group %d", group)
	}
}

// What a delivery cannot do, the look before it says, in the same words.
func TestReachDoesWhatDeliverDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir, path string)
		says    string
		user    int
	}{
		"another name of the file": {func(t *testing.T, dir, path string) { require.NoError(t, os.Link(path, filepath.Join(dir, "other"))) }, "it has 2 names (hard links)", 0},
		"a file of somebody else": {func(t *testing.T, dir, path string) {
			require.NoError(t, os.Chown(dir, 65534, 65534))
			require.NoError(t, os.Chown(path, 1234, 65534))
			require.NoError(t, os.Chmod(path, 0o640))
		}, "belongs to user 1234", 65534},
		"a file of somebody else in a sticky folder": {func(t *testing.T, dir, path string) {
			require.NoError(t, os.Chmod(dir, 0o777|fs.ModeSticky))
			require.NoError(t, os.Chown(path, 1234, 65534))
		}, "only user 1234 may replace it", 65534},
		"a folder that is not the worker's": {func(t *testing.T, _, path string) { require.NoError(t, os.Chown(path, 65534, 65534)) }, "permission denied", 65534},
		"a file that is mounted by itself": {func(t *testing.T, dir, path string) {
			from := filepath.Join(t.TempDir(), "from")
			require.NoError(t, os.WriteFile(from, []byte("old"), 0o600))
			if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
				t.Skipf("nothing can be mounted here: %v", err)
			}
			t.Cleanup(func() { assert.NoError(t, unix.Unmount(path, unix.MNT_DETACH)) })
		}, "it is mounted there by itself", 0},
		"a file that is not to be changed": {func(t *testing.T, _, path string) {
			const immutable = 0x10
			set := func(flags int) error {
				f, err := os.Open(path)
				require.NoError(t, err)
				defer func() { _ = f.Close() }()
				return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
			}
			if err := set(immutable); err != nil {
				t.Skipf("files cannot be made immutable here: %v", err)
			}
			t.Cleanup(func() { assert.NoError(t, set(0)) })
		}, "it may not be replaced", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if os.Geteuid() != 0 && name != "another name of the file" {
				t.Skip("only root can prepare this; run the tests as root")
			}
			dir, err := os.MkdirTemp("", "keyturn") // whose parents everybody may pass
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
			require.NoError(t, os.Chmod(dir, 0o755))
			path := filepath.Join(dir, "key")
			require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
			c.prepare(t, dir, path)
			var reached, delivered error
			as(t, c.user, func() {
				target := openTarget(t, anywhere, file.TargetConfig{Path: path})
				reached, delivered = target.Reach(t.Context(), "a"), target.Deliver(t.Context(), one("new"))
			})
			require.ErrorContains(t, reached, c.says)
			require.ErrorContains(t, delivered, c.says)
			require.ErrorIs(t, reached, providers.ErrDenied)
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, "old", string(content))
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			for _, entry := range left {
				assert.Contains(t, []string{"key", "other"}, entry.Name(), "nothing is left behind")
			}
		})
	}
}

// as does something as another user, who is also in these groups, on a thread that ends with it.
func as(t *testing.T, user int, do func(), groups ...uint32) {
	t.Helper()
	if user == 0 {
		do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: nobody else gets this thread
		const same = ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); errno != 0 {
			t.Errorf("joining groups %v: %v", groups, errno)
			return
		}
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, same, uintptr(user), same); errno != 0 {
			t.Errorf("becoming group %d: %v", user, errno)
			return
		}
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, same, uintptr(user), same); errno != 0 {
			t.Errorf("becoming user %d: %v", user, errno)
			return
		}
		do()
	}()
	<-done
}
