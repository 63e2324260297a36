package postgres_test

import (
	"testing"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/storetest"
)

func BenchmarkStore(b *testing.B) {
	need(b)
	storetest.Benchmark(b, func(b *testing.B) postrider.Store { return open(b, fresh(b)) })
}
