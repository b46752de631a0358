package main

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/sandbox/internal/demo"
)

// These compare docker-compose.yml, as the parser of Compose reads it, and the Dockerfile with the code: no container engine runs
// where CI runs. TestCluster in tests/ runs what the file describes.

// volume is where the state is in the containers of demo and worker.
const volume = demo.Folder("/var/lib/keyturn")

// composed is docker-compose.yml, with variables of the environment.
func composed(t *testing.T, variables types.Mapping) *types.Project {
	t.Helper()
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: "..", Environment: variables, ConfigFiles: []types.ConfigFile{{Filename: "../docker-compose.yml"}},
	})
	require.NoError(t, err)
	return project
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

// found is what the first group of a pattern matches in a file.
func found(t *testing.T, file, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(read(t, file))
	require.NotNil(t, match, "%s has no %s", file, pattern)
	return match[1]
}

func TestImagesHaveTheVersionsThatAreTested(t *testing.T) {
	t.Parallel()
	server := found(t, "go.mod", `\tgo\.temporal\.io/server v(\S+)`)
	tested := map[string]string{
		"temporalio/server": server, "temporalio/admin-tools": server,
		"temporalio/ui":   found(t, "go.mod", `\tgithub\.com/temporalio/ui-server/v2 v(\S+)`),
		"motoserver/moto": found(t, "../tests/requirements.txt", `moto\[server\]==(\S+)`),
		"keyturn":         "7", "keyturn-demo": "7",
	}
	for name, service := range composed(t, types.Mapping{"KEYTURN_BUILD": "7"}).Services {
		image, version, _ := strings.Cut(service.Image, ":")
		if image == "postgres" {
			assert.Regexp(t, `^\d+\.\d+$`, version, "%s is pinned", name)
			continue
		}
		assert.Equal(t, tested[image], version, "%s runs %s", name, image)
	}
	assert.Equal(t, found(t, "../go.work", `^go (\S+)`), found(t, "../Dockerfile", `FROM golang:([\d.]+)`))
}

func TestTheBuildThatIsBuiltIsTheOneThatRuns(t *testing.T) {
	t.Parallel()
	project := composed(t, types.Mapping{"KEYTURN_BUILD": "7"})
	for _, name := range []string{"setup", "worker"} {
		service := project.Services[name]
		build := service.Build.Args["BUILD"]
		require.NotNil(t, build, name)
		assert.Equal(t, "7", *build, name)
		assert.Contains(t, strings.Join(service.Command, " "), "--build-id 7", name)
	}
}

// Each command line is given to the program, which tells whether it knows command, flags and values.
func TestTheProgramsKnowTheirCommandLines(t *testing.T) {
	t.Parallel()
	programs := os.Getenv("KEYTURN_PROGRAMS") // of who has built them already
	if programs == "" {
		programs = t.TempDir()
		out, err := exec.Command("go", "build", "-o", programs+"/", "../worker", "../starter").CombinedOutput()
		require.NoError(t, err, string(out))
	}
	known := func(what string, words ...string) {
		program, is := map[string]string{"keyturn": filepath.Join(programs, "starter"), "keyturn-worker": filepath.Join(programs, "worker"), "sandbox": os.Args[0]}[words[0]]
		require.True(t, is, "%s: %s is a program", what, words[0])
		cmd := exec.Command(program, append(words[1:], "--help")...)
		cmd.Env = append(os.Environ(), asSandbox+"=1")
		in, err := cmd.StdinPipe() // it runs until this ends
		require.NoError(t, err)
		defer func() { _ = in.Close() }()
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s: %s", what, words, out)
	}
	project := composed(t, nil)
	known("setup", append(project.Services["setup"].Entrypoint, project.Services["setup"].Command...)...)
	known("worker", append([]string{"keyturn-worker"}, project.Services["worker"].Command...)...)
	require.NotNil(t, project.Services["worker"].HealthCheck)
	known("the worker's health check", project.Services["worker"].HealthCheck.Test[1:]...)
	known("demo", append([]string{"sandbox"}, project.Services["demo"].Command...)...)
	for _, file := range []string{"../docker-compose.yml", "../docs/deployment.md"} {
		lines := regexp.MustCompile(`docker compose exec worker ([^#\n]+)`).FindAllStringSubmatch(read(t, file), -1)
		require.NotEmpty(t, lines, file)
		for _, line := range lines {
			words := regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(line[1], -1)
			known(file, words...)
			if i := slices.Index(words, "-f"); i >= 0 {
				assert.Equal(t, volume.Inventory(), words[i+1], file)
			}
		}
	}
}

func TestPortsAndFilesAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	project := composed(t, nil)
	of := func(name string) types.ServiceConfig {
		service, is := project.Services[name]
		require.True(t, is, name)
		return service
	}
	variable := func(name, variable string) string {
		value := of(name).Environment[variable]
		require.NotNil(t, value, "%s: %s", name, variable)
		return *value
	}
	_, temporal, _ := strings.Cut(client.DefaultHostPort, ":")
	for _, name := range []string{"namespace", "ui", "setup", "worker"} {
		assert.Equal(t, "temporal:"+temporal, variable(name, "TEMPORAL_ADDRESS"), name)
	}
	for _, name := range []string{"demo", "worker"} {
		assert.Equal(t, motoEndpoint, variable(name, "AWS_ENDPOINT_URL"), name)
		assert.Equal(t, "service:moto", of(name).NetworkMode, "what is on this host for %s is moto's", name)
		assert.Equal(t, volume.AWSCredentials(), variable(name, "AWS_SHARED_CREDENTIALS_FILE"), name)
		mounts := of(name).Volumes
		require.Len(t, mounts, 1, name)
		assert.Equal(t, string(volume), mounts[0].Target, name)
	}
	assert.Contains(t, of("moto").HealthCheck.Test[3], motoEndpoint)
	command := strings.Join(of("demo").Command, " ")
	assert.Contains(t, command, "--folder "+string(volume))
	port := regexp.MustCompile(`--consumers-port=(\d+)`).FindStringSubmatch(command)
	require.NotNil(t, port)
	assert.Equal(t, "http://127.0.0.1:"+port[1]+"/snapshot", of("demo").HealthCheck.Test[3])
	assert.Contains(t, strings.Join(of("worker").Command, " "), "--config "+volume.Worker())
	assert.Equal(t, string(volume), found(t, "../Dockerfile", `WORKDIR (/var\S+)`), "of the worker's image")
	assert.Equal(t, 2, strings.Count(read(t, "../Dockerfile"), "/state "+string(volume)+"\n"), "each image has the folder, for its user")

	published := map[string]string{"temporal": temporal, "ui": "8080", "moto": motoEndpoint[strings.LastIndex(motoEndpoint, ":")+1:]}
	for name, service := range project.Services {
		for _, port := range service.Ports {
			assert.Equal(t, "127.0.0.1", port.HostIP, "%s is for this host alone", name)
			assert.Equal(t, published[name], port.Published, name)
		}
	}
}

func TestWhatAServiceWaitsForComes(t *testing.T) {
	t.Parallel()
	project := composed(t, nil)
	for name, service := range project.Services {
		stays := service.Restart == types.RestartPolicyUnlessStopped
		assert.Equal(t, stays, service.HealthCheck != nil, "%s stays, and has a health check, or ends by itself", name)
		for other, waits := range service.DependsOn {
			met := map[string]bool{types.ServiceConditionHealthy: true, types.ServiceConditionCompletedSuccessfully: false, types.ServiceConditionStarted: true}
			assert.Equal(t, met[waits.Condition], project.Services[other].Restart == types.RestartPolicyUnlessStopped, "%s waits until %s is %s", name, other, waits.Condition)
		}
	}
}

func TestNoServiceRunsAsRootWithoutNeed(t *testing.T) {
	t.Parallel()
	own := map[string]string{ // images that name another user by themselves
		"temporalio/server": "temporal", "temporalio/admin-tools": "temporal", "temporalio/ui": "temporal", "keyturn": "nonroot", "keyturn-demo": "nonroot",
	}
	need := map[string]string{"postgresql": "takes its volume, then becomes postgres", "password": "writes to a new volume, which is root's"}
	for name, service := range composed(t, nil).Services {
		image, _, _ := strings.Cut(service.Image, ":")
		if own[image] == "" && need[name] == "" {
			assert.Regexp(t, `^[1-9]\d*:[1-9]\d*$`, service.User, name)
		}
		assert.False(t, service.Privileged, name)
		if service.Build != nil || name == "password" {
			assert.Equal(t, []string{"ALL"}, service.CapDrop, name)
			assert.True(t, service.ReadOnly, name)
		}
	}
	for _, image := range regexp.MustCompile(`FROM (\S+) AS (worker|demo)\n`).FindAllStringSubmatch(read(t, "../Dockerfile"), -1) {
		assert.Contains(t, image[1], "nonroot", image[2])
	}
}

func TestSecretsAreInFilesOfVolumes(t *testing.T) {
	t.Parallel()
	project := composed(t, nil)
	used := map[string]bool{}
	for name, service := range project.Services {
		for _, mount := range service.Volumes {
			used[mount.Source] = true
			assert.Equal(t, types.VolumeTypeVolume, mount.Type, "%s needs nothing of this host", name)
			if mount.Source == "secrets" && name != "password" {
				assert.True(t, mount.ReadOnly, name)
			}
		}
		for variable, value := range service.Environment {
			if regexp.MustCompile(`PASS|PWD|SECRET|TOKEN|KEY`).MatchString(variable) {
				require.Regexp(t, `_FILE$`, variable, name)
				assert.True(t, slices.ContainsFunc(service.Volumes, func(m types.ServiceVolumeConfig) bool { return path.Dir(*value) == m.Target }), "%s has no %s", name, *value)
			}
		}
	}
	for volume := range project.Volumes {
		assert.True(t, used[volume], "nobody uses %s", volume)
	}
}

func TestTheImagesAreBuiltFromWhatIsThere(t *testing.T) {
	t.Parallel()
	dockerfile := read(t, "../Dockerfile")
	var stages []string
	for _, from := range regexp.MustCompile(`(?m)^FROM \S+ AS (\S+)$`).FindAllStringSubmatch(dockerfile, -1) {
		stages = append(stages, from[1])
	}
	for name, service := range composed(t, nil).Services {
		if service.Build != nil {
			assert.Contains(t, stages, service.Build.Target, name)
		}
	}
	ignored := read(t, "../.dockerignore")
	for _, line := range regexp.MustCompile(`(?m)^COPY (.*) \S+$`).FindAllStringSubmatch(dockerfile, -1) {
		for _, word := range strings.Fields(line[1]) {
			stage, is := strings.CutPrefix(word, "--from=")
			switch {
			case is:
				assert.Contains(t, stages, stage)
			case strings.HasPrefix(word, "--"):
			case strings.HasPrefix(word, "/"): // of another stage
				assert.Regexp(t, `(?s)-o `+word+` .*COPY|-o /out/ \./`+path.Base(word)+`\n|mkdir .*`+word+`\n`, dockerfile)
			case word != ".":
				assert.FileExists(t, filepath.Join("..", word))
				assert.Contains(t, ignored, "\n!"+word+"\n")
			}
		}
	}
	packages := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}`, "./worker", "./starter", "./sandbox")
	packages.Dir = ".."
	out, err := packages.Output()
	require.NoError(t, err)
	for _, name := range strings.Fields(string(out)) {
		folder, _, _ := strings.Cut(strings.TrimPrefix(name, "github.com/keyturn/keyturn/"), "/")
		assert.Contains(t, ignored, "\n!"+folder+"\n", "%s is in what the images are built from", name)
	}
}
