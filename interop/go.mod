// The tests that need other people's software, in a module of their own: the root module requires none of it.
module github.com/postrider/postrider/interop

go 1.25.0

require (
	github.com/postrider/postrider v0.0.0
	github.com/standard-webhooks/standard-webhooks/libraries v0.0.1
	github.com/stretchr/testify v1.12.1
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect

replace github.com/postrider/postrider => ../
