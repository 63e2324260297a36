// Package bench measures what users feel, each time beside a yardstick of the same run. It holds benchmarks only, and is
// a module of its own, as it requires what we are measured beside:
//
//	go test -bench . -timeout 0 ./bench            all, five rounds each
//	go test ./bench -bench Throughput -rounds 3    fewer rounds
//	go test -bench . -benchtime 1x ./bench         once and small, to see that they work
package bench
