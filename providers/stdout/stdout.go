// Package stdout hands audit events over to whoever collects the standard output of the worker, such as a container's
// log shipper: one JSON object a line. The worker's own log goes to standard error.
package stdout

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/providers"
)

// Descriptor describes the type stdout: collector.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "stdout",
		Summary: "writes audit events to the worker's standard output, as JSON lines",
		Collector: providers.Make(func(providers.Environment, *Config) (providers.Collector, error) {
			return To(os.Stdout), nil
		}),
	}
}

// Config has no fields.
type Config struct{}

// To returns a collector that writes to out.
func To(out io.Writer) providers.Collector {
	return &collector{out: out, turn: make(chan struct{}, 1)}
}

type collector struct {
	out io.Writer
	// turn is taken while a line is being written: one that nobody reads is waited for, and never written into.
	turn chan struct{}
	// torn: the last line may lack its end.
	torn bool
}

// Collect implements providers.Collector. When nobody reads what is written, it returns with the context, and the line may be
// written later.
func (c *collector) Collect(ctx context.Context, e audit.Numbered) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text) // ends the line, too
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		return fmt.Errorf("writing an audit event to standard output: %w: %w", providers.ErrInvalid, err)
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("writing an audit event to standard output: nobody reads it: %w", ctx.Err())
	}
	wrote := make(chan error, 1)
	go func() {
		wrote <- c.write(text.Bytes())
		<-c.turn
	}()
	select {
	case err := <-wrote:
		return err
	case <-ctx.Done():
		return fmt.Errorf("writing an audit event to standard output: nobody reads it: %w", ctx.Err())
	}
}

func (c *collector) write(line []byte) error {
	if c.torn {
		line = append([]byte{'\n'}, line...)
	}
	_, err := c.out.Write(line)
	if c.torn = err != nil; c.torn {
		return fmt.Errorf("writing an audit event to standard output: %w", err)
	}
	return nil
}
