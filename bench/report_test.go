package bench_test

import (
	"fmt"
	"slices"
	"strings"
)

// report is the results of BenchmarkPeers.
type report struct {
	events, rounds int
	phases         []phase
	subjects       []subject
	absent         []string
	cells          map[[2]string]*cell // by subject and phase
}

// cell is what one phase of one subject measured: a value a round of each of figures or latencyFigures.
type cell struct {
	figures map[string]series
	missing string // why there are none
}

func newReport(events, rounds int) *report {
	return &report{events: events, rounds: rounds, cells: map[[2]string]*cell{}}
}

// cell returns the results of a phase of a subject, to read and to add to.
func (r *report) cell(subject, phase string) *cell {
	key := [2]string{subject, phase}
	if r.cells[key] == nil {
		r.cells[key] = &cell{figures: map[string]series{}}
	}
	return r.cells[key]
}

// add notes a run. bare is the rate of the bare loop meanwhile.
func (r *report) add(subject, phase string, result result, bare float64) {
	c := r.cell(subject, phase).figures
	note := func(name string, v float64) { c[name] = append(c[name], v) }
	each := func(v float64) float64 { return v / float64(result.events) }
	note("rate", result.rate())
	note("ratio", result.rate()/bare)
	note("here", each(micros(result.here)))
	note("receiver", each(micros(result.receiver)))
	note("server", each(micros(result.server)))
	note("memory", float64(result.memory)/(1<<20))
	note("server memory", float64(result.serverMemory)/(1<<20))
	note("disk", each(float64(result.disk)))
	if l := result.latencies; l != nil {
		note("p50", micros(percentile(l, 0.5)))
		note("p99", micros(percentile(l, 0.99)))
		note("fdatasync", micros(result.floor.fdatasync))
		note("in a row", micros(result.floor.inARow))
		note("post", micros(result.floor.post))
		allowed := micros(result.floor.allowance())
		note("p50/allowance", micros(percentile(l, 0.5))/allowed)
		note("p99/allowance", micros(percentile(l, 0.99))/allowed)
	}
}

// figures are the columns of a phase's table.
var figures = []struct {
	name, title string
	digits      int
}{
	{"rate", "events/s", 0},
	{"ratio", "of bare", 2},
	{"here", "CPU here, µs", 1},
	{"receiver", "receiver, µs", 1},
	{"server", "server, µs", 1},
	{"memory", "memory here, MiB", 0},
	{"server memory", "server, MiB", 0},
	{"disk", "disk, bytes", 0},
}

// latencyFigures are those of the paced phase.
var latencyFigures = []struct {
	name, title string
	digits      int
}{
	{"p50", "p50, µs", 0},
	{"p99", "p99, µs", 0},
	{"fdatasync", "fdatasync, µs", 0},
	{"in a row", "in a row, µs", 0},
	{"post", "bare POST, µs", 0},
	{"p50/allowance", "p50 of allowance", 2},
	{"p99/allowance", "p99 of allowance", 2},
	{"here", "CPU here, µs", 0},
	{"server", "server, µs", 0},
}

// markdown returns what was measured and how, a summary, and a table a phase.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Rounds: %d; events of 1 KiB a phase: %d, of slow subjects a part of them. Medians, and ranges in parentheses.\n\n",
		r.rounds, r.events)
	for _, s := range r.subjects {
		fmt.Fprintf(&b, "- %s: %s.\n", s.name, s.about)
	}
	for _, reason := range r.absent {
		fmt.Fprintf(&b, "- LEFT OUT: %s.\n", strings.Join(strings.Fields(reason), " "))
	}
	r.summary(&b)
	r.beside(&b)
	b.WriteString("\n**The bare loop**, 64 in flight\n\n")
	heading := []string{""}
	for _, f := range figures {
		heading = append(heading, f.title)
	}
	writeHeading(&b, heading)
	r.row(&b, "bare", "bare")
	for _, p := range r.phases {
		if p.paced {
			continue
		}
		fmt.Fprintf(&b, "\n**%s**\n\n", p.name)
		writeHeading(&b, heading)
		for _, s := range r.subjects {
			r.row(&b, s.name, p.name)
		}
	}
	r.latencies(&b)
	return b.String()
}

// summary has the medians of the ratios to the bare loop.
func (r *report) summary(b *strings.Builder) {
	b.WriteString("\n**Rate by that of the bare loop**, medians\n\n")
	heading := []string{""}
	for _, s := range r.subjects {
		heading = append(heading, s.name)
	}
	writeHeading(b, heading)
	for _, p := range r.phases {
		if p.paced {
			continue
		}
		row := []string{p.name}
		for _, s := range r.subjects {
			text := ""
			if ratio := r.cell(s.name, p.name).figures["ratio"]; len(ratio) > 0 {
				text = fmt.Sprintf("%.2f", ratio.median())
			}
			row = append(row, text)
		}
		writeRow(b, row)
	}
}

// beside says how many times as fast as the others bolt is. The ratios to bare are compared, since those of a round
// are not of the same minute.
func (r *report) beside(b *strings.Builder) {
	if !slices.ContainsFunc(r.subjects, func(s subject) bool { return s.name == "bolt" }) {
		return
	}
	b.WriteString("\n**bolt by the others**, medians of the rounds\n\n")
	heading := []string{""}
	for _, s := range r.subjects {
		if s.name != "bolt" {
			heading = append(heading, s.name)
		}
	}
	writeHeading(b, heading)
	for _, p := range r.phases {
		if p.paced {
			continue
		}
		ours, row := r.cell("bolt", p.name).figures["ratio"], []string{p.name}
		for _, s := range r.subjects {
			if s.name == "bolt" {
				continue
			}
			times := series(nil)
			for i, v := range r.cell(s.name, p.name).figures["ratio"] {
				times = append(times, ours[i]/v)
			}
			row = append(row, times.with(2))
		}
		writeRow(b, row)
	}
}

func (r *report) row(b *strings.Builder, subject, phase string) {
	c, row := r.cell(subject, phase), []string{subject}
	for _, f := range figures {
		row = append(row, c.figures[f.name].with(f.digits))
	}
	if c.missing != "" {
		row[1] = c.missing
	}
	writeRow(b, row)
}

// latencies is the table of the paced phase.
func (r *report) latencies(b *strings.Builder) {
	for _, p := range r.phases {
		if !p.paced {
			continue
		}
		fmt.Fprintf(b, "\n**Emit to receipt at %d events a second.** The allowance is 2 fdatasync of 4 KiB + the bare POST + 300 µs, "+
			"each the p50 at the same rate just before; in a row are fdatasyncs without a pause.\n\n", latencyRate)
		heading := []string{""}
		for _, f := range latencyFigures {
			heading = append(heading, f.title)
		}
		writeHeading(b, heading)
		for _, s := range r.subjects {
			c, row := r.cell(s.name, p.name), []string{s.name}
			for _, f := range latencyFigures {
				row = append(row, c.figures[f.name].with(f.digits))
			}
			if c.missing == "" {
				writeRow(b, row)
			}
		}
	}
}

// writeHeading begins a table whose first column is text and the others numbers.
func writeHeading(b *strings.Builder, titles []string) {
	writeRow(b, titles)
	b.WriteString("| ---" + strings.Repeat(" | ---:", len(titles)-1) + " |\n")
}

func writeRow(b *strings.Builder, cells []string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}
