// Package bench measures what users feel, each time beside a yardstick of the same run. It holds benchmarks only:
//
//	go test -bench . ./bench                       all, five rounds each
//	go test ./bench -bench Throughput -rounds 3    fewer rounds
//	go test -bench . -benchtime 1x ./bench         once and small, to see that they work
package bench
