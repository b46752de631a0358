package devserver

import (
	"context"
	"fmt"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
)

// startUI returns when the Web UI answers.
func (s *Server) startUI(ctx context.Context, port int) error {
	port, err := claim(port)
	if err != nil {
		return fmt.Errorf("starting the Web UI: %w", err)
	}
	s.ui = uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: s.address,
		Host:                loopback,
		Port:                port,
		EnableUI:            true,
		DefaultNamespace:    Namespace,
		HideLogs:            true,
		DisableNewsFetch:    true,
		// Pages of other origins get nothing; the cookie against forged requests travels over plain http,
		// which does not leave this machine.
		CORS: uiconfig.CORS{CookieInsecure: true},
	}))
	go func() { _ = s.ui.Start() }() // ends with Stop; on any other error the library ends the process
	url := fmt.Sprintf("http://%s:%d", loopback, port)
	if err := await(ctx, "the Web UI", func() error { return answers(ctx, url+"/healthz") }); err != nil {
		return err
	}
	s.uiURL = url
	return nil
}
