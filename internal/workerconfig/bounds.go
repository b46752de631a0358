package workerconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/providers"
)

// denied says which bound forbids what, and where it is set.
func denied(environment, bound, what string) error {
	return fmt.Errorf("%w: %s is outside of bounds.%s.%s of the worker configuration", providers.ErrDenied, what, environment, bound)
}

func (c *Config) bounds(environment string) (Bounds, error) {
	b, ok := c.Bounds[environment]
	if !ok {
		return b, fmt.Errorf("%w: environment %q is not under bounds of the worker configuration", providers.ErrDenied, environment)
	}
	return b, nil
}

// AllowAccount returns providers.ErrDenied for an account that specs of the environment may not name.
func (c *Config) AllowAccount(environment, account string) error {
	b, err := c.bounds(environment)
	if err != nil || b.Accounts == nil || slices.Contains(b.Accounts, account) {
		return err
	}
	return denied(environment, "accounts", fmt.Sprintf("account %q", account))
}

// AllowPrincipal returns providers.ErrDenied for an issuer principal that the environment may not rotate.
func (c *Config) AllowPrincipal(environment, principal string) error {
	b, err := c.bounds(environment)
	if err != nil || matches(b.Principals, principal) {
		return err
	}
	return denied(environment, "principals", fmt.Sprintf("principal %q", principal))
}

// EnvironmentsOf lists, sorted, the environments that may rotate keys of an issuer principal. Of a principal with
// none, nothing may be looked at either.
func (c *Config) EnvironmentsOf(principal string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.Bounds)) {
		if matches(c.Bounds[name].Principals, principal) {
			names = append(names, name)
		}
	}
	return names
}

// AllBounds are the principals and store paths of all environments, each once and sorted.
func (c *Config) AllBounds() (principals, storePaths []string) {
	for _, b := range c.Bounds {
		principals, storePaths = append(principals, b.Principals...), append(storePaths, b.StorePaths...)
	}
	slices.Sort(principals)
	slices.Sort(storePaths)
	return slices.Compact(principals), slices.Compact(storePaths)
}

// AllowStorePath returns providers.ErrDenied for a secret path that the environment may not use.
func (c *Config) AllowStorePath(environment, path string) error {
	b, err := c.bounds(environment)
	if err != nil || matches(b.StorePaths, path) {
		return err
	}
	return denied(environment, "storePaths", fmt.Sprintf("secret path %q", path))
}

func matches(globs []string, s string) bool {
	return slices.ContainsFunc(globs, func(g string) bool {
		form, err := globForm(g)
		return err == nil && form.MatchString(s)
	})
}

// AllowFile returns providers.ErrDenied for a path that is not below one of the environment's folders,
// after links were followed. Ask it right before writing.
func (c *Config) AllowFile(environment, path string) error {
	b, err := c.bounds(environment)
	if err != nil {
		return err
	}
	resolved, err := resolve(path)
	if err != nil {
		return fmt.Errorf("resolving %q: %w", path, err)
	}
	for _, root := range b.FileRoots {
		real, err := resolve(root)
		if err == nil && strings.HasPrefix(resolved, strings.TrimSuffix(real, "/")+"/") {
			return nil
		}
	}
	return denied(environment, "fileRoots", fmt.Sprintf("path %q", path))
}

// resolve follows the links of a path, of which the last parts may not exist yet.
func resolve(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%w: %q is not absolute", providers.ErrDenied, path)
	}
	if path != filepath.Clean(path) {
		return "", fmt.Errorf("%w: %q is not clean", providers.ErrDenied, path)
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) && path != "/" {
		if _, err := os.Lstat(path); err == nil {
			return "", fmt.Errorf("%w: %q is a link to what does not exist, and would be written to there", providers.ErrDenied, path)
		}
		above, err := resolve(filepath.Dir(path))
		return filepath.Join(above, filepath.Base(path)), err
	}
	return real, err
}

// AllowHost returns providers.ErrDenied for a host:port that the environment may not reach.
func (c *Config) AllowHost(environment, hostport string) error {
	b, err := c.bounds(environment)
	if err != nil {
		return err
	}
	hostport = strings.ToLower(hostport)
	for _, allowed := range b.Hosts {
		allowed = strings.ToLower(allowed)
		if suffix, wild := strings.CutPrefix(allowed, "*"); hostport == allowed || wild && strings.HasSuffix(hostport, suffix) {
			return nil
		}
	}
	return denied(environment, "hosts", fmt.Sprintf("host %q", hostport))
}

// AllowProgram returns providers.ErrDenied for a program that the environment may not run.
func (c *Config) AllowProgram(environment, name string) error {
	b, err := c.bounds(environment)
	if err != nil {
		return err
	}
	if _, known := c.Programs[name]; !known {
		return fmt.Errorf("%w: program %q is not under programs of the worker configuration", providers.ErrDenied, name)
	}
	if b.Programs != nil && !slices.Contains(b.Programs, name) {
		return denied(environment, "programs", fmt.Sprintf("program %q", name))
	}
	return nil
}

// CheckSpec lists the accounts that a spec names and its environment may not use, and what it asks for less
// than the environment demands.
func (c *Config) CheckSpec(spec inventory.Spec) []error {
	cred := spec.Credential
	b, err := c.bounds(cred.Environment)
	if err != nil {
		return []error{err}
	}
	var list []error
	for _, account := range cred.Accounts() {
		if err := c.AllowAccount(cred.Environment, account); err != nil {
			list = append(list, err)
		}
	}
	if b.MinRisk != "" && slices.Index(inventory.Risks, cred.Risk) < slices.Index(inventory.Risks, b.MinRisk) {
		list = append(list, denied(cred.Environment, "minRisk", fmt.Sprintf("risk %s", cred.Risk)))
	}
	if b.MinOverlap > 0 && cred.Overlap < b.MinOverlap {
		list = append(list, denied(cred.Environment, "minOverlap", fmt.Sprintf("overlap %s", cred.Overlap)))
	}
	approvals := 0
	if cred.Approvals.Revoke != nil {
		approvals = cred.Approvals.Revoke.Count
	}
	if approvals < b.MinApprovals {
		list = append(list, denied(cred.Environment, "minApprovals", fmt.Sprintf("a revoke gate with the count %d", approvals)))
	}
	if b.SignedApprovals && (cred.Approvals.Revoke == nil || cred.Approvals.Revoke.Trust != inventory.TrustSigned) {
		list = append(list, denied(cred.Environment, "signedApprovals", "a revoke gate that takes unsigned approvals"))
	}
	return list
}

// Environment makes the doors through which providers reach the outside, for specs of an environment. They ask the
// configuration that is in force at that moment: what it forbids since an activity began, it forbids that activity.
func Environment(current func() *Config, environment string) providers.Environment {
	doors := outside(func(address string) error { return current().AllowHost(environment, address) })
	doors.AllowFile = func(path string) error { return current().AllowFile(environment, path) }
	doors.Program = func(name string) ([]string, error) {
		c := current()
		if err := c.AllowProgram(environment, name); err != nil {
			return nil, err
		}
		return slices.Clone(c.Programs[name]), nil
	}
	return doors
}

// Environment is the same for a configuration that does not change.
func (c *Config) Environment(environment string) providers.Environment {
	return Environment(func() *Config { return c }, environment)
}

// FreezeEnvironment is for the hooks that freeze deployments: their hosts, files and programs stand in this configuration itself.
func (c *Config) FreezeEnvironment() providers.Environment {
	doors := outside(func(string) error { return nil })
	doors.AllowFile = func(path string) error { return c.AllowFile("", path) }
	doors.Program = func(name string) ([]string, error) {
		command, known := c.Programs[name]
		if !known {
			return nil, fmt.Errorf("%w: programs has no %q", providers.ErrDenied, name)
		}
		return slices.Clone(command), nil
	}
	return doors
}

// NotifierEnvironment is for notifiers: their hosts stand in this configuration itself, which is leave
// enough. They write no files and run no programs.
func (c *Config) NotifierEnvironment() providers.Environment {
	doors := outside(func(string) error { return nil })
	doors.AllowFile = func(path string) error { return c.AllowFile("", path) }
	doors.Program = func(name string) ([]string, error) { return nil, c.AllowProgram("", name) }
	return doors
}

func outside(allowHost func(address string) error) providers.Environment {
	return providers.Environment{
		HTTP: &http.Client{
			Transport: &http.Transport{
				DialContext:            dialer(allowHost),
				TLSHandshakeTimeout:    10 * time.Second,
				MaxResponseHeaderBytes: 64 << 10,
				DisableKeepAlives:      true, // a client lives as long as one activity
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Now: time.Now,
	}
}

// dialer connects to allowed hosts only, by an address that it has looked at: a name that resolves to
// a link-local address reaches nobody.
func dialer(allow func(address string) error) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := allow(address); err != nil {
			return nil, err
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		var addresses []string
		var forbidden error
		for _, a := range found {
			if forbiddenAddr(a) {
				forbidden = errors.Join(forbidden, fmt.Errorf("%w: %s is a link-local, multicast or unspecified address", providers.ErrDenied, a))
				continue
			}
			addresses = append(addresses, net.JoinHostPort(a.String(), port))
		}
		if len(addresses) == 0 {
			return nil, cmp.Or(forbidden, fmt.Errorf("%s has no address", host))
		}
		conn, err := firstOf(ctx, addresses, func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
		})
		if err != nil {
			return nil, errors.Join(forbidden, err)
		}
		return conn, nil
	}
}

// dialNext is after how long the next address is tried beside one that does not answer (RFC 8305 has 250 ms).
const dialNext = 250 * time.Millisecond

// firstOf is the first connection that comes about to one of several addresses: a name may have some that nobody answers at, such as
// those of a family that is not routed. Each is dialled when the one before has failed, or not answered for a moment.
func firstOf(ctx context.Context, addresses []string, dial func(ctx context.Context, address string) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	var failed error
	begun, running := 0, 0
	for next := time.After(0); ; {
		select {
		case <-next:
			address := addresses[begun]
			begun, running = begun+1, running+1
			go func() {
				conn, err := dial(ctx, address)
				select {
				case results <- result{conn, err}:
				case <-ctx.Done():
					if conn != nil {
						_ = conn.Close()
					}
				}
			}()
			if next = nil; begun < len(addresses) {
				next = time.After(dialNext)
			}
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			failed = errors.Join(failed, r.err)
			if running--; begun < len(addresses) {
				next = time.After(0)
			} else if running == 0 {
				return nil, failed
			}
		case <-ctx.Done():
			return nil, errors.Join(failed, ctx.Err())
		}
	}
}
