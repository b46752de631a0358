package devserver

import (
	"context"
	"net"
	"reflect"

	"github.com/labstack/echo/v4"
	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
)

// startUI returns when the Web UI answers.
func (s *Server) startUI(ctx context.Context, l net.Listener) error {
	s.ui = uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: s.Address(),
		Host:                loopback,
		Port:                l.Addr().(*net.TCPAddr).Port,
		EnableUI:            true,
		DefaultNamespace:    Namespace,
		HideLogs:            true,
		DisableNewsFetch:    true,
		// Pages of other origins get nothing; the cookie against forged requests travels over plain http,
		// which does not leave this machine.
		CORS: uiconfig.CORS{CookieInsecure: true},
	}))
	listensOn(s.ui, l)
	go func() { _ = s.ui.Start() }() // ends with Stop; on any other error the library ends the process
	url := "http://" + l.Addr().String()
	if err := await(ctx, "the Web UI", func() error { return answers(ctx, url+"/healthz") }); err != nil {
		return err
	}
	s.uiURL = url
	return nil
}

// listensOn has the Web UI use l. The library takes no listener, but what it is made with does.
func listensOn(ui *uiserver.Server, l net.Listener) {
	field := reflect.ValueOf(ui).Elem().FieldByName("httpServer")
	reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Interface().(*echo.Echo).Listener = l
}
