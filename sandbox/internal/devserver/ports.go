package devserver

import (
	"errors"
	"fmt"
	"net"

	"go.temporal.io/server/common/primitives"
)

// The ports that Temporal's own development server has, and every client tries by default.
const (
	DefaultPort   = 7233
	DefaultUIPort = 8233
)

// ErrPortTaken: something else listens on the port.
var ErrPortTaken = errors.New("the port is taken")

// ports are what a server listens on. They are held from before it starts: Temporal and its Web UI would end the
// process when they lost one meanwhile.
type ports struct {
	services map[primitives.ServiceName]net.Listener
	ui       net.Listener // nil without the Web UI
}

// hold listens on all ports, or on none.
func hold(o Options) (*ports, error) {
	p := &ports{services: map[primitives.ServiceName]net.Listener{}}
	if err := p.listen(o); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *ports) listen(o Options) error {
	for name := range services {
		port, orAnother := 0, false
		if name == primitives.FrontendService {
			port, orAnother = o.Port, o.OrAnotherPort
		}
		l, err := listen(port, orAnother)
		if err != nil {
			return err
		}
		p.services[name] = l
	}
	if o.Headless {
		return nil
	}
	l, err := listen(o.UIPort, o.OrAnotherUIPort)
	if err != nil {
		return fmt.Errorf("starting the Web UI: %w", err)
	}
	p.ui = l
	return nil
}

func (p *ports) address() string { return p.services[primitives.FrontendService].Addr().String() }

// all are the listeners that there are.
func (p *ports) all() []net.Listener {
	var all []net.Listener
	for _, l := range p.services {
		all = append(all, l)
	}
	if p.ui != nil {
		all = append(all, p.ui)
	}
	return all
}

func (p *ports) close() {
	for _, l := range p.all() {
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
