package file

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/providers"
)

// accessACL is the attribute that holds an access control list, which a folder may also give to each new file in it.
const accessACL = "system.posix_acl_access"

// keepAttributes gives the new file the extended attributes of the one at the name: its access control list and security label are
// among them.
func keepAttributes(f *os.File, dir *os.Root, name string) error {
	old, err := dir.Open(name)
	if err != nil {
		return fmt.Errorf("%w: whether it has an access control list cannot be read: %w", providers.ErrDenied, err)
	}
	defer func() { _ = old.Close() }()
	names, err := attributes(old)
	if err != nil {
		return err
	}
	for _, attribute := range names {
		want, err := attribute.of(old)
		if err != nil {
			return err
		}
		if is, err := attribute.of(f); err == nil && bytes.Equal(is, want) {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), string(attribute), want, 0); err != nil {
			return fmt.Errorf("%w: the attribute %s, which it has, cannot be given to what takes its place: %w", providers.ErrDenied, attribute, err)
		}
	}
	now, err := attributes(f)
	if err == nil && slices.Contains(now, accessACL) && !slices.Contains(names, accessACL) {
		err = unix.Fremovexattr(int(f.Fd()), accessACL)
	}
	return err
}

// attribute is the name of an extended attribute.
type attribute string

// attributes are those of a file, but for the ones that say something of its content.
func attributes(f *os.File) (names []attribute, err error) {
	size, err := unix.Flistxattr(int(f.Fd()), nil)
	if err != nil || size == 0 {
		return nil, none(err)
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(int(f.Fd()), list); err != nil {
		return nil, none(err)
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		if name != "security.ima" && name != "security.evm" {
			names = append(names, attribute(name))
		}
	}
	return names, nil
}

func (a attribute) of(f *os.File) ([]byte, error) {
	size, err := unix.Fgetxattr(int(f.Fd()), string(a), nil)
	if err != nil || size == 0 {
		return nil, err
	}
	value := make([]byte, size)
	size, err = unix.Fgetxattr(int(f.Fd()), string(a), value)
	return value[:max(size, 0)], err
}

// none is what a file system says that knows no attributes.
func none(err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
