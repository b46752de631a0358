package tests

import (
	"context"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keyturn/keyturn/internal/namespace"
)

// home is where Temporal is, and the namespace there that is a test's own.
type home struct{ address, namespace string }

// ownServer starts Temporal, in memory, with more flags of sandbox server, for a test that has it to itself.
func ownServer(tb testing.TB, flags ...string) home {
	tb.Helper()
	address, err := follow(tb, "sandbox", serverInMemory(flags...)).address()
	require.NoError(tb, err)
	return home{address, client.DefaultNamespace}
}

func serverInMemory(flags ...string) *exec.Cmd {
	return exec.Command(filepath.Join(programs, "sandbox"), append([]string{"server", "-o", "json", "--port", "0", "--headless"}, flags...)...)
}

// address is where a server is, once it says so. Any goroutine may ask.
func (p *process) address() (string, error) {
	var where struct {
		Address string `json:"address"`
	}
	err := p.first(&where)
	return where.Address, err
}

// shared is the server of all tests that neither end nor configure theirs, nor look into its database. The first of them
// starts it; it ends with the package.
var shared struct {
	once       sync.Once
	server     *process
	address    string
	err        error
	namespaces atomic.Int64
}

func endShared() {
	if shared.server != nil {
		shared.server.end(syscall.SIGTERM)
	}
}

// sharedServer makes a namespace on the server that tests share. It has what the sandbox's own has: keyturn's search
// attributes, and its retention.
func sharedServer(tb testing.TB) home {
	tb.Helper()
	shared.once.Do(func() {
		if shared.server, shared.err = spawn(serverInMemory()); shared.err == nil {
			shared.address, shared.err = shared.server.address()
		}
	})
	require.NoError(tb, shared.err)
	h := home{shared.address, fmt.Sprintf("test-%d", shared.namespaces.Add(1))}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("Temporal, where it had namespace %s, said:\n%s", h.namespace, shared.server.said())
		}
	})
	c := h.dial(tb)
	defer c.Close()
	_, err := c.WorkflowService().RegisterNamespace(tb.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: h.namespace, WorkflowExecutionRetentionPeriod: durationpb.New(3 * 24 * time.Hour),
	})
	require.NoError(tb, err)
	_, err = namespace.Register(tb.Context(), c, h.namespace)
	require.NoError(tb, err)
	eventually(tb, func() bool {
		_, err := c.CountWorkflow(tb.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: "KeyturnCredential IS NULL"})
		return err == nil
	}, patience, 100*time.Millisecond, "the server knows the search attributes")
	return h
}

// dial makes a client, for whoever closes it. It connects when it is used.
func (h home) dial(tb testing.TB) client.Client {
	tb.Helper()
	c, err := client.NewLazyClient(client.Options{
		HostPort: h.address, Namespace: h.namespace, Logger: silent, ConnectionOptions: client.ConnectionOptions{
			GetSystemInfoTimeout: patience, DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(looksPatiently)},
		},
	})
	require.NoError(tb, err)
	return c
}

// looksPatiently gives a server that was just started, on a busy machine, more than the ten seconds of the SDK to say what it has.
func looksPatiently(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if name := path.Base(method); strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Count") || strings.HasPrefix(name, "Describe") {
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		ctx = patient
	}
	return call(ctx, method, request, reply, connection, options...)
}
