// Command document puts a text, usually a table that a benchmark has written, into its section of a Markdown file:
//
//	go run ./bench/document docs/performance.md scale <scale.md
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/postrider/postrider/bench"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "document:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("%d arguments, want 2: the file and the name of the section", len(os.Args)-1)
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	return bench.Section(os.Args[1], os.Args[2], string(text))
}
