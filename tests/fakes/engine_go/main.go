// A stand-in for the engine in its own language: grpc-go with default settings unless told, one ack a log.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"engine_go/plugins"
)

type engine struct {
	plugins.UnimplementedEngineServer
	received uint64
	mutex    sync.Mutex
	record   *bufio.Writer // nil: nothing is recorded
}

func (e *engine) Input(stream plugins.Engine_InputServer) error {
	for {
		entry, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := e.write(entry); err != nil {
			return err
		}
		atomic.AddUint64(&e.received, 1)
		if err := stream.Send(&plugins.Ack{LastId: entry.Id}); err != nil {
			return err
		}
	}
}

func (e *engine) write(entry *plugins.Log) error {
	if e.record == nil {
		return nil
	}
	line, err := json.Marshal(map[string]string{
		"id": entry.Id, "dataType": entry.DataType, "dataSource": entry.DataSource,
		"timestamp": entry.Timestamp, "tenantId": entry.TenantId, "raw": entry.Raw,
	})
	if err != nil {
		return err
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if _, err := e.record.Write(append(line, '\n')); err != nil {
		return err
	}
	return e.record.Flush()
}

func main() {
	socket := flag.String("socket", "", "path of the Unix socket")
	record := flag.String("record", "", "append every log to this file as a JSON line")
	age := flag.Duration("age", time.Duration(0), "how old a connection may become before it takes no new streams")
	grace := flag.Duration("grace", time.Duration(0), "how long streams of one that is too old may go on")
	alive := flag.Duration("keepalive", time.Duration(0), "after how much silence a client is asked whether it is there")
	window := flag.Int("window", 0, "bytes of a stream and of a connection that may come ahead; 64 KiB at the least")
	flag.Parse()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)

	e := &engine{}
	if *record != "" {
		file, err := os.OpenFile(*record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			log.Fatal(err)
		}
		e.record = bufio.NewWriter(file)
	}
	os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: *age, MaxConnectionAgeGrace: *grace, Time: *alive}),
		grpc.InitialWindowSize(int32(*window)), grpc.InitialConnWindowSize(int32(*window)),
	)
	plugins.RegisterEngineServer(server, e)
	go func() {
		<-ended
		server.Stop()
	}()
	fmt.Println("ready")
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
	fmt.Println(atomic.LoadUint64(&e.received))
}
