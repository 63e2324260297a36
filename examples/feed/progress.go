package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

const (
	linePeriod     = time.Second            // between lines, if they stay
	terminalPeriod = 200 * time.Millisecond // if each one overwrites the one before
	rateWindow     = 10 * time.Second       // what the rate is an average of
)

// progress prints how far it is: one line that is written again and again on a terminal, else a line every second.
type progress struct {
	w        io.Writer
	terminal bool
	samples  []sample // of the last rateWindow, at most one each terminalPeriod
	next     time.Time
}

type sample struct {
	at    time.Time
	ended int64
}

func newProgress(f *os.File) *progress {
	info, err := f.Stat()
	return &progress{w: f, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// update takes the counts and prints a line if it is time for one.
func (p *progress) update(now time.Time, s postrider.Stats, reading bool) {
	if n := len(p.samples); n == 0 || now.Sub(p.samples[n-1].at) >= terminalPeriod {
		for n > 1 && now.Sub(p.samples[0].at) > rateWindow {
			p.samples = p.samples[1:]
			n--
		}
		p.samples = append(p.samples, sample{now, ended(s)})
	}
	period := linePeriod
	if p.terminal {
		period = terminalPeriod
	}
	if p.next.IsZero() {
		p.next = now.Add(period) // before there is no rate
	}
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(period)
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", p.line(s, reading))
	} else {
		fmt.Fprintln(p.w, p.line(s, reading))
	}
}

// end prints a line that stays.
func (p *progress) end(text string) {
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K")
	}
	fmt.Fprintln(p.w, text)
}

// line says: done of all, given up, failing (they wait for another attempt), rate, time left.
func (p *progress) line(s postrider.Stats, reading bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d delivered", s.Delivered, s.Open()+ended(s))
	if reading {
		b.WriteString(" so far")
	}
	fmt.Fprintf(&b, ", %d given up, %d failing", s.Failed+s.Canceled, s.InProcess)
	if rate := p.rate(); rate > 0 {
		fmt.Fprintf(&b, ", %.1f/s", rate)
		if left := math.Ceil(float64(s.Open()) / rate); left > 0 && left < 1e9 && !reading {
			fmt.Fprintf(&b, ", %v left", time.Duration(left)*time.Second)
		}
	}
	return b.String()
}

// rate is how many end in a second.
func (p *progress) rate() float64 {
	n := len(p.samples)
	if n < 2 {
		return 0
	}
	first, last := p.samples[0], p.samples[n-1]
	return float64(last.ended-first.ended) / last.at.Sub(first.at).Seconds()
}

func ended(s postrider.Stats) int64 { return s.Delivered + s.Canceled + s.Failed }
