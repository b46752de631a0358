package devserver

import (
	"errors"
	"fmt"
	"net"

	"go.temporal.io/server/common/testing/freeport"
)

// The ports that Temporal's own development server has, and every client tries by default.
const (
	DefaultPort   = 7233
	DefaultUIPort = 8233
)

// ErrPortTaken: something else listens on the port.
var ErrPortTaken = errors.New("the port is taken")

// Prefer returns the port when it is free, and any free one when it is not.
func Prefer(port int) int {
	if probe(port) != nil {
		return freeport.MustGetFreePort()
	}
	return port
}

// claim returns the port, or for 0 any free one. It fails when the port is taken: Temporal and its Web UI
// would end the process then.
func claim(port int) (int, error) {
	if port == 0 {
		return freeport.MustGetFreePort(), nil
	}
	if err := probe(port); err != nil {
		return 0, fmt.Errorf("port %d: %w (%w); choose another, or 0 for any free one", port, ErrPortTaken, err)
	}
	return port, nil
}

// probe listens for a moment.
func probe(port int) error {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(loopback), Port: port})
	if err != nil {
		return err
	}
	return l.Close()
}
