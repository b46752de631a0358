package devserver

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"

	"go.temporal.io/server/common/primitives"
)

// The ports that Temporal's own development server has, and every client tries by default.
const (
	DefaultPort   = 7233
	DefaultUIPort = 8233
)

// ErrPortTaken: something else listens on the port.
var ErrPortTaken = errors.New("the port is taken")

// ports are what a server listens on, by its services. They are held from before it starts: Temporal and its Web UI would
// end the process when they lost one meanwhile.
type ports map[primitives.ServiceName]net.Listener

// webUI is how its port is called beside those of Temporal's services.
const webUI primitives.ServiceName = "web-ui"

// hold listens on all ports, or on none.
func hold(o Options) (ports, error) {
	type wish struct {
		name      primitives.ServiceName
		port      int
		orAnother bool
	}
	var wishes []wish
	for name := range services {
		wishes = append(wishes, wish{name: name})
		if name == primitives.FrontendService {
			wishes[len(wishes)-1] = wish{name, o.Port, o.OrAnotherPort}
		}
	}
	if !o.Headless {
		wishes = append(wishes, wish{webUI, o.UIPort, o.OrAnotherUIPort})
	}
	// Whoever takes any port comes last, since any may be the one that another asks for.
	slices.SortFunc(wishes, func(a, b wish) int { return cmp.Compare(b.port, a.port) })
	p := ports{}
	for _, w := range wishes {
		l, err := listen(w.port, w.orAnother)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("listening for %s: %w", w.name, err)
		}
		p[w.name] = l
	}
	return p, nil
}

func (p ports) address() string { return p[primitives.FrontendService].Addr().String() }

func (p ports) close() {
	for _, l := range p {
		_ = l.Close()
	}
}

// listen takes the port, or for 0 any free one, or, if that will do, another than the one that is taken.
func listen(port int, orAnother bool) (net.Listener, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(loopback), Port: port})
	switch {
	case err == nil:
		return l, nil
	case port == 0:
		return nil, err
	case orAnother:
		return listen(0, false)
	}
	return nil, fmt.Errorf("port %d: %w (%w); choose another, or 0 for any free one", port, ErrPortTaken, err)
}
