package devserver

import (
	"io"
	"net"
	"time"

	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/common/resource"
	"go.temporal.io/server/service/frontend"
	"go.temporal.io/server/service/history"
	"go.temporal.io/server/service/history/replication"
	"go.temporal.io/server/service/matching"
	"go.temporal.io/server/service/worker"
	"go.temporal.io/server/temporal"
	"go.uber.org/fx"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// clusterName is how Temporal calls a cluster that is alone.
const clusterName = "active"

// services are those of Temporal, each alone of its kind, and what they are made of.
var services = map[primitives.ServiceName]fx.Option{
	primitives.FrontendService: frontend.Module,
	primitives.HistoryService:  fx.Options(history.QueueModule, history.Module, replication.Module),
	primitives.MatchingService: matching.Module,
	primitives.WorkerService:   worker.Module,
}

// newServer makes all services in one process, on ports that are held already.
func newServer(sql *config.SQL, p ports, o Options) (temporal.Server, error) {
	options := []fx.Option{
		temporal.TopLevelModule,
		fx.Decorate(func() resource.ServiceNames { return nil }), // so that it makes none that listens by itself
	}
	for name := range services {
		options = append(options, fx.Provide(onPort(name, p[name])))
	}
	return temporal.NewServerFx(fx.Options(options...), serverOptions(sql, p, o)...)
}

// onPort makes a service as Temporal's own providers do, but for its listener.
func onPort(name primitives.ServiceName, l net.Listener) func(temporal.ServiceProviderParamsCommon) (temporal.ServicesGroupOut, error) {
	return func(params temporal.ServiceProviderParamsCommon) (temporal.ServicesGroupOut, error) {
		made := services[name]
		if name == primitives.FrontendService {
			made = fx.Options(made, fx.Supply(params.CustomFrontendInterceptors))
		}
		app := fx.New(params.GetCommonServiceOptions(name), made, fx.Decorate(func() net.Listener { return l }))
		return temporal.NewService(app, name, params.Logger), app.Err()
	}
}

func serverOptions(sql *config.SQL, p ports, o Options) []temporal.ServerOption {
	configs := map[string]config.Service{}
	hosts := map[primitives.ServiceName]static.Hosts{}
	for name := range services {
		l := p[name]
		configs[string(name)] = config.Service{RPC: config.RPC{GRPCPort: l.Addr().(*net.TCPAddr).Port, BindOnIP: loopback}}
		hosts[name] = static.SingleLocalHost(l.Addr().String())
	}
	c := &config.Config{
		Global: config.Global{
			Metrics: &metrics.Config{},
			// Twice this long is how long the services may take to start.
			Membership: config.Membership{MaxJoinDuration: ReadyWithin / 2},
		},
		Persistence: config.Persistence{
			DefaultStore: sqlite.PluginName, VisibilityStore: sqlite.PluginName, NumHistoryShards: 1,
			DataStores: map[string]config.DataStore{sqlite.PluginName: {SQL: sql}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10, MasterClusterName: clusterName, CurrentClusterName: clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: p.address()},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services:            configs,
		PublicClient:        config.PublicClient{HostPort: p.address()},
		// The server refuses to start where archival is left unsaid.
		Archival: config.Archival{
			History:    config.HistoryArchival{State: config.ArchivalDisabled},
			Visibility: config.VisibilityArchival{State: config.ArchivalDisabled},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: config.ArchivalDisabled},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: config.ArchivalDisabled},
		}},
	}
	return []temporal.ServerOption{
		temporal.WithConfig(c),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithDynamicConfigClient(dynamic(o)),
		temporal.WithLogger(logger(o.Log)),
	}
}

// dynamic is where a server for one machine differs from one for many.
func dynamic(o Options) dynamicconfig.StaticClient {
	d := dynamicconfig.StaticClient{
		// Changes of search attributes and namespaces are seen at once.
		dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key(): true,
		dynamicconfig.NamespaceCacheRefreshInterval.Key():           200 * time.Millisecond,
		// That is a read for each line of a list, and a list may have thousands.
		dynamicconfig.FrontendPersistenceMaxQPS.Key(): 1_000_000,
		dynamicconfig.HistoryPersistenceMaxQPS.Key():  1_000_000,
		// Tests list workflows far more often than people.
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 1000,
		// A process of a few hundred megabytes holds thousands of workflows, not all of them in memory.
		dynamicconfig.HistoryCacheHostLevelMaxSize.Key(): 8192,
		// The server asks nobody outside this machine whether there is a newer one.
		dynamicconfig.EnableServerVersionCheck.Key():   false,
		dynamicconfig.NamespaceMinRetentionLocal.Key(): time.Second,
	}
	if o.SuggestContinueAsNew > 0 {
		d[dynamicconfig.HistoryCountSuggestContinueAsNew.Key()] = o.SuggestContinueAsNew
	}
	if o.Retention > 0 {
		d[dynamicconfig.RetentionTimerJitterDuration.Key()] = time.Second
	}
	return d
}

// logger keeps warnings and worse. What the server calls fatal it follows by ending the process: it
// panics instead, so that the reason is seen also where the log is discarded.
func logger(w io.Writer) log.Logger {
	if w == nil {
		w = io.Discard
	}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(log.DefaultZapEncoderConfig), zapcore.Lock(zapcore.AddSync(w)), zap.WarnLevel)
	return log.NewZapLogger(zap.New(core, zap.WithFatalHook(zapcore.WriteThenPanic)))
}
