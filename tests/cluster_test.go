package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/workflows"
)

// cluster is the stack of docker-compose.yml without containers: each of its services is a process here,
// with the command and the environment that stand in the file. Only addresses, folders and where its
// programs are differ.
type cluster struct {
	*stage
	file     composeFile
	database string
	aws      string
	// here has what is called otherwise in a container.
	here *strings.Replacer
	// ports are those of Temporal's services.
	ports []string
}

type composeFile struct {
	Services map[string]struct {
		Environment map[string]any
		Entrypoint  []string
		Command     []string
		Healthcheck struct{ Test []string }
	}
	Configs map[string]struct{ Content string }
}

// newCluster starts PostgreSQL, and Temporal on it, and makes the namespace.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	initdb, postgres := need(t, "initdb", "apt-get install postgresql"), need(t, "postgres", "apt-get install postgresql")
	need(t, "temporal", "pip install -r tests/requirements.txt")
	double := exec.Command(moto.Need(t), "--host", "127.0.0.1", "--port", "0")

	text, err := os.ReadFile("../docker-compose.yml")
	require.NoError(t, err)
	s := &stage{t: t, folder: t.TempDir(), home: home{namespace: client.DefaultNamespace}, variables: map[string][]string{}}
	c := &cluster{stage: s}
	c.settles(follow(t, "moto", double).says(`Running on http://([\d.:]+)`))
	require.NoError(t, yaml.Unmarshal(text, &c.file))
	s.buildTemporal()

	require.NoError(t, os.Mkdir(filepath.Join(s.folder, "secrets"), 0o700)) // a volume
	require.NoError(t, c.run("password"))
	c.serveDatabase(initdb, postgres)
	made := c.password()
	require.NoError(t, c.run("password"), "when it is there already")
	require.Equal(t, made, c.password())
	require.NoError(t, c.run("schema"))
	require.NoError(t, c.run("schema"), "when it is there already")
	return c
}

// settles notes where the moto of this test is, and its Temporal.
func (c *cluster) settles(aws string) {
	c.aws, c.here = aws, strings.NewReplacer(
		"${KEYTURN_BUILD:-1}", "1", "$$", "$", "/etc/temporal/entrypoint.sh", "temporal-server start",
		"temporal:7233", c.address, "127.0.0.1:5000", aws, "--consumers-port=5001", "--consumers-port=0",
		"/var/lib/keyturn", filepath.Join(c.folder, "demo"), "/run/keyturn", filepath.Join(c.folder, "secrets"))
}

// need returns where a program is. Where it is missing the test is skipped, with a line that says how to
// get it; in CI that fails it.
func need(t *testing.T, program, how string) string {
	t.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + program); len(found) > 0 { // where Debian has PostgreSQL's
		return found[len(found)-1]
	}
	missing(t, program+" is not installed: "+how)
	return ""
}

// buildTemporal builds what Temporal's images have, of the same version.
func (s *stage) buildTemporal() {
	s.t.Helper()
	for program, from := range map[string]string{
		"temporal-server":   "go.temporal.io/server/cmd/server",
		"temporal-sql-tool": "go.temporal.io/server/cmd/tools/sql",
		"ui-server":         "github.com/temporalio/ui-server/v2/cmd/server",
	} {
		build := exec.Command("go", "build", "-ldflags=-w", "-o", filepath.Join(s.folder, program), from)
		build.Dir = "../sandbox" // its go.mod has them as tools
		out, err := build.CombinedOutput()
		require.NoError(s.t, err, "building %s: %s", from, out)
	}
}

// password is what the database's is.
func (c *cluster) password() []byte {
	c.t.Helper()
	made, err := os.ReadFile(c.environmentOf("postgresql")["POSTGRES_PASSWORD_FILE"])
	require.NoError(c.t, err)
	require.Len(c.t, made, 48)
	return made
}

// serveDatabase starts PostgreSQL, which does not run as root.
func (c *cluster) serveDatabase(initdb, postgres string) {
	c.t.Helper()
	folder, err := os.MkdirTemp("", "keyturn-postgresql-")
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = os.RemoveAll(folder) })
	password := filepath.Join(folder, "password")
	require.NoError(c.t, os.WriteFile(password, c.password(), 0o600))
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		require.NoError(c.t, err)
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		require.NoError(c.t, os.Chown(folder, uid, gid))
		require.NoError(c.t, os.Chown(password, uid, gid))
	}
	data := filepath.Join(folder, "data")
	make := exec.Command(initdb, "-D", data, "-U", c.environmentOf("postgresql")["POSTGRES_USER"], "--pwfile", password, "-A", "scram-sha-256", "--no-sync")
	make.SysProcAttr, make.Dir = as, folder
	out, err := make.CombinedOutput()
	require.NoError(c.t, err, string(out))
	c.listens(func() bool {
		c.database = freeAddress(c.t)
		serve := exec.Command(postgres, "-D", data, "-p", port(c.database), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off")
		serve.SysProcAttr, serve.Dir = as, folder
		p := follow(c.t, "postgresql", serve)
		c.t.Cleanup(func() { p.end(syscall.SIGINT) }) // SIGTERM waits for its clients to leave
		return p.hears("(ready to accept connections)") != nil
	})
}

// environmentOf is what a service has in its environment, with what differs here.
func (c *cluster) environmentOf(service string) map[string]string {
	c.t.Helper()
	require.Contains(c.t, c.file.Services, service)
	variables := map[string]string{}
	for name, value := range c.file.Services[service].Environment {
		variables[name] = c.here.Replace(fmt.Sprint(value))
	}
	for _, host := range []string{"SQL_HOST", "POSTGRES_SEEDS", "BIND_ON_IP"} {
		if variables[host] != "" {
			variables[host] = "127.0.0.1"
		}
	}
	for _, name := range []string{"SQL_PORT", "DB_PORT"} {
		if variables[name] != "" {
			variables[name] = port(c.database)
		}
	}
	return variables
}

// service is what a service runs. An image's own entrypoint is the program.
func (c *cluster) service(service, program string) *exec.Cmd {
	c.t.Helper()
	words := slices.Concat(c.file.Services[service].Entrypoint, c.file.Services[service].Command)
	if program != "" {
		words = append([]string{program}, words...)
	}
	return c.command(service, words...)
}

// isReady asks as the health check of the worker does.
func (c *cluster) isReady() (said string, yes bool) {
	c.t.Helper()
	test := c.file.Services["worker"].Healthcheck.Test
	require.Equal(c.t, "CMD", test[0])
	out, err := c.command("worker", slices.Concat(test[1:], []string{"--health-address", c.health})...).CombinedOutput()
	return string(out), err == nil
}

// command is a command in a service's container.
func (c *cluster) command(service string, words ...string) *exec.Cmd {
	c.t.Helper()
	words = slices.Clone(words)
	for i, word := range words {
		words[i] = c.here.Replace(word)
	}
	if folder, ours := map[string]string{"keyturn": "starter", "keyturn-worker": "worker"}[words[0]]; ours {
		words[0] = folder // as what is built here is called; the Dockerfile names it
	}
	path := c.folder + ":" + programs + ":" + os.Getenv("PATH")
	for _, folder := range strings.Split(path, ":") { // exec looks in this process's own path
		if _, err := os.Stat(filepath.Join(folder, words[0])); err == nil {
			words[0] = filepath.Join(folder, words[0])
			break
		}
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = []string{"PATH=" + path, "HOME=" + c.folder}
	for name, value := range c.environmentOf(service) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// run runs a service that ends by itself.
func (c *cluster) run(service string) error {
	if out, err := c.service(service, "").CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", service, err, out)
	}
	return nil
}

// startTemporal starts the server, or starts it again at its ports.
func (c *cluster) startTemporal() {
	c.t.Helper()
	dynamic := filepath.Join(c.folder, "dynamic.yaml")
	require.NoError(c.t, os.WriteFile(dynamic, []byte(c.file.Configs["temporal"].Content), 0o600))
	again := c.server != nil
	c.listens(func() bool {
		if !again {
			c.address, c.ports = freeAddress(c.t), nil
			c.settles(c.aws)
			for _, name := range []string{"FRONTEND_HTTP_PORT", "FRONTEND_MEMBERSHIP_PORT", "MATCHING_GRPC_PORT", "MATCHING_MEMBERSHIP_PORT",
				"HISTORY_GRPC_PORT", "HISTORY_MEMBERSHIP_PORT", "WORKER_GRPC_PORT", "WORKER_MEMBERSHIP_PORT"} {
				c.ports = append(c.ports, name+"="+port(freeAddress(c.t))) // Temporal keeps some in a column of 16 bits
			}
		}
		cmd := c.service("temporal", "")
		cmd.Env = append(append(cmd.Env, "FRONTEND_GRPC_PORT="+port(c.address), "DYNAMIC_CONFIG_FILE_PATH="+dynamic), c.ports...)
		c.server = follow(c.t, "temporal", cmd)
		return comes(func() bool {
			connection, err := net.Dial("tcp", c.address)
			return c.server.ended() || err == nil && connection.Close() == nil
		}, patience, 50*time.Millisecond) && !c.server.ended()
	})
}

// startUI starts the Web UI and returns its URL.
func (c *cluster) startUI() string {
	c.t.Helper()
	where := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/temporalio/ui-server/v2")
	where.Dir = "../sandbox"
	root, err := where.Output() // its configuration is a file beside its source, and in its image
	require.NoError(c.t, err)
	var url string
	c.listens(func() bool {
		address := freeAddress(c.t)
		url = "http://" + address
		cmd := c.service("ui", "ui-server")
		cmd.Args = append(cmd.Args, "--root", strings.TrimSpace(string(root)), "--config", "config", "--env", "docker", "start")
		cmd.Env = append(cmd.Env, "TEMPORAL_UI_PORT="+port(address))
		ui := follow(c.t, "ui", cmd)
		return comes(func() bool { return ui.ended() || c.get(url) != 0 }, patience, 50*time.Millisecond) && !ui.ended()
	})
	return url
}

// TestCluster runs what docker-compose.yml describes: a rotation on AWS's interfaces on a Temporal cluster of
// its own on PostgreSQL, which is killed in the middle.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startTemporal()
	eventually(t, func() bool { return c.run("namespace") == nil }, patience, 200*time.Millisecond, "the namespace is made")
	require.NoError(t, c.run("namespace"), "when it is there already")
	eventually(t, func() bool { return c.run("setup") == nil }, patience, 200*time.Millisecond, "the namespace is prepared")
	require.NoError(t, c.run("setup"), "when it is prepared already")

	c.services = follow(t, "demo", c.service("demo", "sandbox"))
	c.services.firstLine(&c.place)
	worker := c.service("worker", "worker")
	worker.Args = append(worker.Args, "--health-address", anyPort)
	c.worker = follow(t, "worker", worker)
	c.health = c.polls(c.worker)
	c.tellsWhetherTheWorkerIsReady()
	ui := c.startUI()

	out, code := c.starter("rotate", credential, "-f", c.place.Inventory, "--reason", "first rotation")
	require.Zero(t, code, out)
	c.await(workflows.PhaseOverlap)
	eventually(t, func() bool {
		return c.get(ui+"/api/v1/namespaces/default/workflows/rotation%2F"+credential) == http.StatusOK
	}, patience, 200*time.Millisecond, "the Web UI shows it")

	c.server.end(syscall.SIGKILL)
	said, yes := c.isReady()
	assert.False(t, yes, said)
	assert.Contains(t, said, "is not ready (status 503): looking at namespace")
	c.startTemporal()
	c.awaitThat("the gate, after Temporal was killed", func(status workflows.Status) bool { return status.Phase == workflows.PhaseRevokeGate })
	out, code = c.starter("approve", credential, "--gate", "revoke", "--as", "ann")
	require.Zero(t, code, out)
	report := c.report()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	c.nobodyRefused()
}

// tellsWhetherTheWorkerIsReady: the health check of its container holds, and not while no event could be kept.
func (c *cluster) tellsWhetherTheWorkerIsReady() {
	c.t.Helper()
	said, yes := c.isReady()
	require.True(c.t, yes, said)
	kept := c.place.Audit + ".kept"
	require.NoError(c.t, os.Rename(c.place.Audit, kept))
	require.NoError(c.t, os.Mkdir(c.place.Audit, 0o700))
	said, yes = c.isReady()
	assert.False(c.t, yes, said)
	assert.Contains(c.t, said, "is not ready (status 503): opening audit file")
	require.NoError(c.t, os.Remove(c.place.Audit))
	require.NoError(c.t, os.Rename(kept, c.place.Audit))
	said, yes = c.isReady()
	require.True(c.t, yes, said)
}
