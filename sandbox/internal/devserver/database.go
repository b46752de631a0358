package devserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	schema "go.temporal.io/server/schema/sqlite"
	"google.golang.org/protobuf/types/known/durationpb"

	keyturn "github.com/keyturn/keyturn/internal/namespace"
)

// ErrInUse: another server has the database open.
var ErrInUse = errors.New("the database is in use by another server")

// database is where the server keeps its state.
type database struct {
	sql *config.SQL
	// lock ends with the process, however that ends; nil for a database in memory.
	lock *flock.Flock
}

// openDatabase returns a database that has the schema and the namespace. A new namespace has keyturn's
// search attributes and the retention; an existing one stays as it is.
func openDatabase(file string, retention time.Duration) (*database, error) {
	d := &database{sql: inMemory()}
	if file != "" {
		path, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("opening database %q: %w", file, err)
		}
		d.sql = inFile(path)
		d.lock = flock.New(path + ".lock")
		free, err := d.lock.TryLock()
		if err != nil {
			return nil, fmt.Errorf("opening database %q: %w", file, err)
		}
		if !free {
			return nil, fmt.Errorf("opening database %q: %w; stop that one or choose another file", file, ErrInUse)
		}
		if err := makeFile(path); err != nil {
			d.close()
			return nil, fmt.Errorf("making database %q: %w", file, err)
		}
	}
	space, err := schema.NewNamespaceConfig(clusterName, Namespace, false, keyturn.Attributes())
	if err == nil {
		space.Detail.Config.Retention = durationpb.New(retention)
		err = schema.CreateNamespaces(d.sql, space)
	}
	if err != nil {
		d.close()
		return nil, fmt.Errorf("making namespace %q: %w", Namespace, err)
	}
	return d, nil
}

// close gives the file free. The lock file stays: removing it would let two servers hold two locks.
func (d *database) close() {
	if d.lock != nil {
		_ = d.lock.Unlock()
	}
}

// inMemory is a database of its own; the plugin makes its schema.
func inMemory() *config.SQL {
	return &config.SQL{
		PluginName: sqlite.PluginName, DatabaseName: uuid.NewString(),
		ConnectAttributes: map[string]string{"mode": "memory", "cache": "shared"},
	}
}

// inFile survives a kill of the process and a loss of power at any moment.
func inFile(path string) *config.SQL {
	return &config.SQL{
		PluginName: sqlite.PluginName,
		// The name becomes a part of a URI.
		DatabaseName:      (&url.URL{Path: path}).EscapedPath(),
		ConnectAttributes: map[string]string{"mode": "rwc", "journal_mode": "wal", "synchronous": "2"},
	}
}

// makeFile makes the file with the schema when there is none: beside its place, so that it exists whole
// or not at all, whenever the process is killed. It is readable by its owner alone.
func makeFile(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	folder, err := os.MkdirTemp(filepath.Dir(path), ".making-*") // 0700
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	draft := filepath.Join(folder, "database")
	if err := os.WriteFile(draft, nil, 0o600); err != nil {
		return err
	}
	plain := inFile(draft)
	plain.ConnectAttributes = map[string]string{"mode": "rw"} // no write-ahead log beside it
	if err := schema.SetupSchema(plain); err != nil {
		return err
	}
	return os.Rename(draft, path)
}
