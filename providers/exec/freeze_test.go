package exec_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/exec"
	"github.com/keyturn/keyturn/providers/providertest"
)

// freeze is a program that keeps the freeze that is in force in a file.
func freeze(behaviour, operation string, f providers.Freeze) {
	switch behaviour {
	case string(providertest.Well):
		file := os.Args[3]
		var held providers.Freeze
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &held)
		}
		switch {
		case operation == "freeze":
			text, _ := json.Marshal(f)
			err = os.WriteFile(file, text, 0o600)
		case held.Incident == f.Incident && f.Incident != "":
			err = os.Remove(file)
		case os.IsNotExist(err):
			err = nil
		}
		fmt.Printf(`{"ok":%t}`, err == nil)
	case string(providertest.Ill):
		fmt.Println(`{"ok":false,"message":"the pipeline is down"}`)
	case string(providertest.Telltale):
		for range 1000 {
			fmt.Fprintf(os.Stderr, "\x1b[31mbad\r\n%v", f)
		}
		os.Exit(1)
	case string(providertest.Silent):
		<-time.After(time.Hour)
	}
}

func TestFreezerConforms(t *testing.T) {
	t.Parallel()
	providertest.Freezer(t, providertest.FreezerSetup{Open: func(t providertest.T, peer providertest.Peer) (providers.Freezer, func() providers.Freeze) {
		file := filepath.Join(t.TempDir(), "frozen.json")
		f, err := exec.Descriptor().Freezer.Open(providers.Environment{Program: func(string) ([]string, error) {
			return []string{os.Args[0], helper, string(peer), file}, nil
		}}, nil, &exec.Config{Program: "freeze-deployments", Timeout: patient})
		require.NoError(t, err)
		return f, func() (held providers.Freeze) {
			text, err := os.ReadFile(file)
			if os.IsNotExist(err) {
				return held
			}
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, &held))
			return held
		}
	}})
}
