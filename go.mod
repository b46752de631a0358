module github.com/keyturn/keyturn

go 1.26.0

require (
	github.com/go-openapi/jsonpointer v1.0.2
	github.com/invopop/jsonschema v0.14.0
	github.com/goccy/go-yaml v1.19.2
	github.com/google/renameio/v2 v2.0.2
	github.com/google/uuid v1.6.0
	github.com/rogpeppe/go-internal v1.16.0
	github.com/spf13/cobra v1.10.2
	github.com/stretchr/testify v1.12.1
	go.temporal.io/api v1.64.1
	go.temporal.io/sdk v1.50.0
	go.temporal.io/sdk/contrib/envconfig v1.0.2
	pgregory.net/rapid v1.3.0
)
