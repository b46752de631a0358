package consumer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how a key file is read. The zero Options are for a file that holds the key and nothing
// else, asked after once a second.
type Options struct {
	// Format of the file; Plain when empty.
	Format Format
	// Fields are the names of the key's fields, as keyturn knows them; just "value" when empty. Other
	// content of the file is ignored. Plain has one field.
	Fields []string
	// Variables name the variable that each field has in a file of format Env: {"value": "API_KEY"}. A
	// field that is not named has the variable of its own name.
	Variables map[string]string
	// Interval is how often the file is asked after; a second when zero.
	Interval time.Duration
	// KeyID tells the issuer's ID of a key from its fields, which Handler then states instead of the
	// fingerprint. It is needed for keys of less than 128 bits, which have no fingerprint.
	KeyID func(fields map[string]string) string
	// OnChange is called after another key is in use, OnError when the file cannot be used and the last
	// good key stays in use, once for each trouble. Both run on the goroutine that follows the file: they
	// must return soon, and must not call Close. The error has nothing of the file's content.
	OnChange func()
	OnError  func(error)
}

// DefaultInterval is how often a key file is asked after.
const DefaultInterval = time.Second

// maxFile bounds a key file.
const maxFile = 64 << 10

// settled is how old a file must be for its time to tell whether it changed since: file systems do not
// tell two changes of one moment apart.
const settled = 2 * time.Second

// File is a key file that is followed. Its methods may be called from many goroutines at once.
type File struct {
	path    string
	options Options
	// now is the key in use. It is replaced as a whole, so that two fields are always of one key.
	now  atomic.Pointer[loaded]
	stop chan struct{}
	done chan struct{}
	once sync.Once

	// What the following goroutine alone knows of the file: what it was when it was last read, when
	// that was, and the trouble that was last told.
	seen    os.FileInfo
	readAt  time.Time
	trouble string
}

// loaded is one key.
type loaded struct {
	fields      map[string]string
	fingerprint string
	keyID       string
	at          time.Time
}

// Open reads the key file and follows it until Close. It fails when there is no usable key yet: a
// program may start with a key or not at all.
func Open(path string, o Options) (*File, error) {
	if o.Format == "" {
		o.Format = Plain
	}
	if len(o.Fields) == 0 {
		o.Fields = []string{valueField}
	}
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	switch {
	case o.Format != Plain && o.Format != JSON && o.Format != Env:
		return nil, fmt.Errorf("opening key file: the format %q is none of %s, %s and %s", o.Format, Plain, JSON, Env)
	case o.Format == Plain && len(o.Fields) != 1:
		return nil, fmt.Errorf("opening key file: a file of format %s has one field, not %d", Plain, len(o.Fields))
	case o.Interval < 0:
		return nil, errors.New("opening key file: the interval is negative")
	}
	f := &File{path: path, options: o, stop: make(chan struct{}), done: make(chan struct{})}
	if err := f.reload(); err != nil {
		return nil, fmt.Errorf("opening key file: %w", err)
	}
	go f.follow()
	return f, nil
}

// Close ends the following of the file. The last key stays readable. It may be called twice.
func (f *File) Close() error {
	f.once.Do(func() { close(f.stop) })
	<-f.done
	return nil
}

// Key returns the key in use: the first of Options.Fields.
func (f *File) Key() string { return f.now.Load().fields[f.options.Fields[0]] }

// Fields returns all of Options.Fields, of one and the same key.
func (f *File) Fields() map[string]string { return maps.Clone(f.now.Load().fields) }

// LoadedAt is when the key in use was read.
func (f *File) LoadedAt() time.Time { return f.now.Load().at }

func (f *File) follow() {
	defer close(f.done)
	ticker := time.NewTicker(f.options.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-ticker.C:
			f.tell(f.reload())
		}
	}
}

// tell reports trouble once, and again when it is another. A file that goes is missing to the look at it or, when it
// goes right then, to the reading: that is one trouble.
func (f *File) tell(err error) {
	if err == nil {
		f.trouble = ""
		return
	}
	trouble := err.Error()
	if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
		trouble = failed.Err.Error() // whatever was tried
	}
	if f.trouble != trouble && f.options.OnError != nil {
		f.options.OnError(fmt.Errorf("following key file: %w", err))
	}
	f.trouble = trouble
}

// reload reads the file, when it may have changed, and puts its key into use. After an error the key in
// use stays.
func (f *File) reload() error {
	info, err := os.Stat(f.path)
	if err != nil {
		f.seen = nil
		return err
	}
	if f.unchanged(info) {
		return nil
	}
	begun := time.Now()
	content, err := f.content()
	if err != nil {
		return err
	}
	fields, err := f.options.parse(content)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.seen, f.readAt = info, begun
	before := f.now.Load()
	if before != nil && maps.Equal(before.fields, fields) {
		return nil
	}
	next := &loaded{fields: fields, fingerprint: fingerprint(fields), at: begun.UTC()}
	if f.options.KeyID != nil {
		next.keyID = f.options.KeyID(maps.Clone(fields))
	}
	f.now.Store(next)
	if before != nil && f.options.OnChange != nil {
		f.options.OnChange()
	}
	return nil
}

// unchanged tells whether the file is surely the one that was read last.
func (f *File) unchanged(info os.FileInfo) bool {
	return f.seen != nil && os.SameFile(f.seen, info) && f.seen.ModTime().Equal(info.ModTime()) &&
		f.seen.Size() == info.Size() && f.readAt.Sub(info.ModTime()) > settled
}

func (f *File) content() (string, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxFile {
		return "", fmt.Errorf("%s: is longer than %d bytes", f.path, maxFile)
	}
	if strings.TrimSpace(string(content)) == "" {
		return "", fmt.Errorf("%s: %w", f.path, ErrNoKey)
	}
	return string(content), nil
}
