package demo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/inventory"
)

// Options say how the demonstration runs. Of the zero Options everything but Folder has a default.
type Options struct {
	Folder Folder
	// Every is the time between two requests of one consumer; DefaultEvery when zero.
	Every time.Duration
	// Windows of the rotation; those of DefaultWindows when zero.
	Windows Windows
	// Stuck instances never read their key file again.
	Stuck []string
	// AWS: instead of the gateway and the key files, IAM and Secrets Manager as the environment names them.
	AWS bool
	// Signed: the worker takes nothing that is not signed with the key that is made in the folder. Not with AWS.
	Signed bool
	// GatewayPort and ConsumersPort; 0 for any free one.
	GatewayPort, ConsumersPort int
}

// DefaultEvery is the time between two requests of one consumer.
const DefaultEvery = 50 * time.Millisecond

// DefaultWindows make a rotation of about half a minute.
var DefaultWindows = Windows{
	Overlap:     inventory.Duration(8 * time.Second),
	Quiet:       inventory.Duration(3 * time.Second),
	WaveSoak:    inventory.Duration(2 * time.Second),
	DisableSoak: inventory.Duration(4 * time.Second),
}

func (o Options) withDefaults() Options {
	if o.Every == 0 {
		o.Every = DefaultEvery
	}
	for _, w := range []struct{ have, or *inventory.Duration }{
		{&o.Windows.Overlap, &DefaultWindows.Overlap}, {&o.Windows.Quiet, &DefaultWindows.Quiet},
		{&o.Windows.WaveSoak, &DefaultWindows.WaveSoak}, {&o.Windows.DisableSoak, &DefaultWindows.DisableSoak},
	} {
		if *w.have == 0 {
			*w.have = *w.or
		}
	}
	return o
}

// Place says where everything is.
type Place struct {
	Folder     Folder `json:"folder"`
	Credential string `json:"credential"`
	Inventory  string `json:"inventory"`
	Worker     string `json:"worker"`
	Audit      string `json:"audit"`
	// Gateway is the URL that consumers call, empty with AWS. Below Consumers, each instance has its /healthz, /keyturn
	// and /stats.
	Gateway   string `json:"gateway,omitempty"`
	Consumers string `json:"consumers"`
	// Snapshot answers GET with a Snapshot.
	Snapshot string `json:"snapshot"`
}

// Services are the consumers, running, and the gateway, if there is one. The methods may be called from many goroutines.
type Services struct {
	place     Place
	gateway   *Gateway
	verifier  *gateway.Verifier
	consumers []*Consumer
	servers   []*http.Server
	stop      sync.Once
}

// Start seeds the folder and returns when each consumer sends requests.
func Start(ctx context.Context, o Options) (*Services, error) {
	s := &Services{}
	if err := s.start(ctx, o.withDefaults()); err != nil {
		s.Stop()
		return nil, fmt.Errorf("starting the demonstration: %w", err)
	}
	return s, nil
}

func (s *Services) start(ctx context.Context, o Options) error {
	for _, name := range o.Stuck {
		if !slices.Contains(Instances, name) {
			return fmt.Errorf("there is no instance %q to be stuck; the instances are %s", name, strings.Join(Instances, ", "))
		}
	}
	services, err := listen(o.ConsumersPort)
	if err != nil {
		return err
	}
	defer services.unlessServed()
	begin := s.withGateway
	if o.AWS {
		begin = s.withAWS
	}
	if err := begin(ctx, o, Setting{Folder: o.Folder, Consumers: services.url, Windows: o.Windows, AWS: o.AWS, Signed: o.Signed}); err != nil {
		return err
	}
	mux := http.NewServeMux()
	for _, c := range s.consumers {
		mux.Handle("/"+c.name+"/", http.StripPrefix("/"+c.name, c.Handler()))
	}
	mux.HandleFunc("GET /snapshot", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Snapshot()) })
	s.serve(services, mux)
	for _, c := range s.consumers {
		c.Run(context.WithoutCancel(ctx)) // ctx is that of the start
	}
	return nil
}

// withGateway seeds the folder, and makes a gateway and consumers that read their key from files.
func (s *Services) withGateway(ctx context.Context, o Options, setting Setting) error {
	edge, err := listen(o.GatewayPort)
	if err != nil {
		return err
	}
	defer edge.unlessServed()
	setting.Gateway = edge.url + "/ping" // the files name the addresses
	if err := Seed(ctx, setting); err != nil {
		return err
	}
	s.place = setting.place()
	if s.verifier, err = gateway.OpenVerifier(o.Folder.GatewayKeys(), ""); err != nil { //nolint:contextcheck // it reports for longer than the start
		return err
	}
	s.gateway = NewGateway(func(value, caller string) (string, bool) {
		grant, accepted := s.verifier.VerifyFrom(value, caller)
		if !accepted {
			grant.KeyID, _ = gateway.ParseToken(value) // whose key it was
		}
		return grant.KeyID, accepted
	})
	s.serve(edge, s.gateway.Handler())
	for _, name := range Instances {
		c, err := NewConsumer(ConsumerOptions{
			Name: name, KeyFile: o.Folder.KeysOf(name), Gateway: setting.Gateway, Every: o.Every, Stuck: slices.Contains(o.Stuck, name),
		})
		if err != nil {
			return err
		}
		s.consumers = append(s.consumers, c)
	}
	return nil
}

// Place says where everything is.
func (s *Services) Place() Place { return s.place }

// Snapshot is what was counted so far; after Stop, all that was.
func (s *Services) Snapshot() Snapshot {
	var counts []Counts
	for _, c := range s.consumers {
		counts = append(counts, c.Counts())
	}
	var ledger []Entry
	if s.gateway != nil {
		ledger = s.gateway.Ledger()
	}
	return newSnapshot(time.Now(), counts, ledger)
}

// Stop ends the traffic first: each request that was sent is answered. Then it ends the servers, where
// nobody is left but probes, and the gateway reports the last uses. It may be called twice.
func (s *Services) Stop() {
	s.stop.Do(func() {
		var traffic sync.WaitGroup
		for _, c := range s.consumers {
			traffic.Go(c.Close)
		}
		traffic.Wait()
		for _, server := range s.servers {
			_ = server.Close()
		}
		if s.verifier != nil {
			_ = s.verifier.Close()
		}
	})
}

func (s *Services) serve(l *listener, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: requestTimeout}
	s.servers = append(s.servers, server)
	l.served = true
	go func() { _ = server.Serve(l) }() // until Stop
}

// listener is an address on loopback that nothing is served on yet.
type listener struct {
	net.Listener
	url    string
	served bool
}

func listen(port int) (*listener, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return nil, err
	}
	return &listener{Listener: l, url: "http://" + l.Addr().String()}, nil
}

func (l *listener) unlessServed() {
	if !l.served {
		_ = l.Close()
	}
}
