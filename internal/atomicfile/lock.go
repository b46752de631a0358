package atomicfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// lockEvery is how often a lock that another one holds is asked for.
const lockEvery = 5 * time.Millisecond

// Lock takes the lock at path, which it makes when it is missing, and waits for it until ctx ends. It
// holds among processes and among goroutines, and is flock(2)'s, so that programs in other languages can
// take it. The lock file stays: removing it would break the lock.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	return lock(ctx, path, os.O_CREATE|os.O_RDONLY)
}

// LockDir is Lock on a folder itself, where no file may be left.
func LockDir(ctx context.Context, path string) (unlock func(), err error) {
	return lock(ctx, path, os.O_RDONLY)
}

func lock(ctx context.Context, path string, how int) (unlock func(), err error) {
	file, err := os.OpenFile(path, how, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if err := take(ctx, file); err != nil {
		return nil, fmt.Errorf("locking %q: %w", path, errors.Join(err, file.Close()))
	}
	return func() {
		release(file) // a child process that is being started may hold the file a moment longer
		_ = file.Close()
	}, nil
}

func take(ctx context.Context, file *os.File) error {
	again := time.NewTicker(lockEvery)
	defer again.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if taken, err := tryTake(file); taken || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
}
