// Package bench measures what users feel, each time beside a yardstick of the same run. It is a module of its own, as
// it requires what we are measured beside. All but Section is benchmarks:
//
//	go test ./bench -run '^$' -bench . -timeout 0            all, five rounds each
//	go test ./bench -run '^$' -bench Throughput -rounds 3    fewer rounds
//	go test ./bench -run '^$' -bench . -benchtime 1x         once and small, to see that they work
//
// With -table ../docs/performance.md they also write their tables there.
package bench
