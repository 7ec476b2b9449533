// What a Go program reaches that publishes by nats.go: publish URL async|sync COUNT SIZE
//
// async has 4096 messages unacknowledged at most, sync waits for each; all have ids. Output as of baseline.c.
package main

import (
	"fmt"
	"log"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

const window = 4096

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func cpu() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e3
}

func publishAsync(js nats.JetStreamContext, count int, payload []byte) {
	futures := make([]nats.PubAckFuture, count)
	for i := range futures {
		var err error
		futures[i], err = js.PublishAsync("bench.a", payload, nats.MsgId("go-"+strconv.Itoa(i)))
		check(err)
	}
	<-js.PublishAsyncComplete()
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			check(err)
		}
	}
}

func publishSync(js nats.JetStreamContext, count int, payload []byte) []float64 {
	took := make([]float64, count)
	for i := range took {
		before := time.Now()
		_, err := js.Publish("bench.a", payload, nats.MsgId("go-"+strconv.Itoa(i)))
		check(err)
		took[i] = float64(time.Since(before).Nanoseconds()) / 1e3
	}
	sort.Float64s(took)
	return took
}

func main() {
	count, err := strconv.Atoi(os.Args[3])
	check(err)
	size, err := strconv.Atoi(os.Args[4])
	check(err)
	payload := []byte(strings.Repeat("x", size))
	nc, err := nats.Connect(os.Args[1])
	check(err)
	js, err := nc.JetStream(nats.PublishAsyncMaxPending(window))
	check(err)

	var took []float64
	before, started := cpu(), time.Now()
	if os.Args[2] == "sync" {
		took = publishSync(js, count, payload)
	} else {
		publishAsync(js, count, payload)
	}
	seconds, used := time.Since(started).Seconds(), cpu()-before

	fmt.Printf("rate=%.1f cpu_us=%.3f", float64(count)/seconds, used/float64(count))
	if took != nil {
		fmt.Printf(" p50_us=%.2f p99_us=%.2f", took[count/2], took[count*99/100])
	}
	fmt.Println()
}
