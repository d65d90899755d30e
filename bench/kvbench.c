// kvbench: an HTTP/1.1 key-value load generator. One thread, epoll, keep-alive connections.
//
// Every connection is a worker that sends one request, waits for the whole answer, checks it, and
// takes the next operation. Without -r that is a closed loop (as fast as the server answers). With
// -r OPS it is an open loop: operation k is due at T0 + k/OPS, and its latency counts from then,
// so that a server that stalls is charged for everyone who had to wait meanwhile.
//
// Only full successes count: a final 2xx and, for get, the right length and the right bytes. Keys
// and values are functions of an index and a seed, so that a later run can check what an earlier
// one stored. Redirects are followed. Only 127.0.0.0/8 is ever contacted.
//
// Modes (-m): raw    one value per PUT, GET or DELETE of a path
//             etcd   the same through the JSON gateway of etcd v3
//             batch  put only: -k keys per POST, as docs/http-api.md describes POST /batch
//
// SIGTERM ends a run early; the report, one line of JSON, is printed as always.
//
// Build: gcc -O2 -o kvbench kvbench.c
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define TARGETS_MAX 16  // distinct servers: the one named, and those that it redirects to
#define ANSWER_MAX (1024 * 1024)
#define HOPS_MAX 6
#define RETRIES_MAX 3
#define PATH_MAX_ 2048
#define POOL_BYTES (1 << 21)  // random bytes that values are cut from
#define KEY_CHARS 14
#define SILENCE_S 20.0  // a run without any answer for so long is given up

typedef enum { PUT, GET, DEL } op_t;
typedef enum { RAW, ETCD, BATCH } mode_t_;
typedef enum { IDLE, CONNECTING, SENDING, RECEIVING } state_t;

typedef struct {
  char name[128];
  struct sockaddr_in address;
} target_t;

typedef struct {
  int fd;
  int used;  // has carried an answer: if it is closed under us now, the server was free to
} conn_t;

typedef struct {
  conn_t conns[TARGETS_MAX];
  state_t state;
  int current;  // target
  int hops, retries;
  char head[4096];
  int head_len;
  const char *body;
  size_t body_len, sent;
  char *encoded;  // a body that had to be built
  char path[PATH_MAX_];
  uint64_t index;   // of the key, or of the first key of a batch
  uint64_t n_keys;  // 1, or the keys of this batch
  double due;
  char *answer;
  int answer_len;
} worker_t;

typedef struct {
  int status;
  const char *body;
  int body_len;
  int closes;
  char location[PATH_MAX_];
} answer_t;

static struct {
  op_t op;
  mode_t_ mode;
  const char *path, *label;
  char headers[1024];
  int size, conns, batch;
  double seconds, rate;
  uint64_t start, step, keys, seed, ops_max;
} opt = {.path = "/%s", .label = "", .size = 1024, .conns = 16, .batch = 500, .seconds = 5,
         .step = 1, .seed = 1};

static target_t targets[TARGETS_MAX];
static int n_targets;
static worker_t *workers;
static int epoll_fd;
static char *pool, *unchunked;
static double t_start, t_end;
static volatile sig_atomic_t stopping;
static int active;
static int *ready, n_ready;               // workers without an operation
static int *waiting, wait_head, wait_tail;  // open loop: workers whose operation is not due yet
static uint64_t next_op, done, random_state;
static uint64_t ok, failed, keys_ok, connects, net_errors, bad_length, bad_bytes, statuses[1000];
static uint32_t *latencies;
static size_t n_latencies, latencies_room;

// ---- keys and values

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

static uint64_t next_random(void) { return random_state = mix(random_state); }

// 14 characters of [0-9a-z]: 6 that scatter, 8 that make it unique.
static void key_text(uint64_t index, char *out) {
  static const char *letters = "0123456789abcdefghijklmnopqrstuvwxyz";
  uint64_t h = mix(index * 2 + opt.seed * 1000003);
  for (int k = 0; k < 6; k++, h /= 36) out[k] = letters[h % 36];
  for (int k = KEY_CHARS - 1; k >= 6; k--, index /= 36) out[k] = letters[index % 36];
  out[KEY_CHARS] = 0;
}

static const char *value_of(uint64_t index) {
  return pool + mix(index ^ (opt.seed << 40)) % (uint64_t)(POOL_BYTES - opt.size);
}

static int base64(const char *in, int n, char *out) {
  static const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const unsigned char *s = (const unsigned char *)in;
  int j = 0;
  for (int i = 0; i < n; i += 3) {
    unsigned v = s[i] << 16 | (i + 1 < n ? s[i + 1] << 8 : 0) | (i + 2 < n ? s[i + 2] : 0);
    out[j++] = letters[v >> 18];
    out[j++] = letters[v >> 12 & 63];
    out[j++] = i + 1 < n ? letters[v >> 6 & 63] : '=';
    out[j++] = i + 2 < n ? letters[v & 63] : '=';
  }
  return j;
}

// ---- connections

static int target_of(const char *host, int port) {
  char name[128], service[12];
  snprintf(name, sizeof name, "%s:%d", host, port);
  for (int i = 0; i < n_targets; i++)
    if (!strcmp(targets[i].name, name)) return i;
  if (n_targets == TARGETS_MAX) {
    fprintf(stderr, "too many targets\n");
    exit(2);
  }
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
  snprintf(service, sizeof service, "%d", port);
  if (getaddrinfo(host, service, &hints, &found)) {
    fprintf(stderr, "cannot resolve %s\n", host);
    exit(2);
  }
  target_t *target = &targets[n_targets];
  target->address = *(struct sockaddr_in *)found->ai_addr;
  freeaddrinfo(found);
  if (ntohl(target->address.sin_addr.s_addr) >> 24 != 127) {
    fprintf(stderr, "%s is not loopback: refused\n", name);
    exit(2);
  }
  strcpy(target->name, name);
  return n_targets++;
}

static void close_conn(worker_t *w, int t) {
  if (w->conns[t].fd >= 0) close(w->conns[t].fd);
  w->conns[t] = (conn_t){.fd = -1};
}

static void watch(worker_t *w, int events, int verb) {
  struct epoll_event e = {.events = events};
  e.data.u64 = (uint64_t)w->current << 32 | (uint32_t)(w - workers);
  epoll_ctl(epoll_fd, verb, w->conns[w->current].fd, &e);
}

static void finish(worker_t *w, int good) {
  double t = now();
  done++;
  if (good) {
    ok++;
    keys_ok += w->n_keys;
    if (n_latencies == latencies_room) {
      latencies_room = latencies_room ? latencies_room * 2 : 1 << 20;
      latencies = realloc(latencies, latencies_room * sizeof *latencies);
    }
    double us = (t - w->due) * 1e6;
    latencies[n_latencies++] = us > 4e9 ? 4000000000u : (uint32_t)us;
  } else {
    failed++;
  }
  if (t >= t_end) stopping = 1;
  w->state = IDLE;
  ready[n_ready++] = w - workers;
}

static void give_up(worker_t *w) {
  net_errors++;
  close_conn(w, w->current);
  finish(w, 0);
}

// ---- requests

static int encode_etcd(worker_t *w) {
  char key[KEY_CHARS + 1], key64[64];
  key_text(w->index, key);
  key64[base64(key, KEY_CHARS, key64)] = 0;
  if (opt.op != PUT) return sprintf(w->encoded, "{\"key\":\"%s\"}", key64);
  int n = sprintf(w->encoded, "{\"key\":\"%s\",\"value\":\"", key64);
  n += base64(value_of(w->index), opt.size, w->encoded + n);
  return n + sprintf(w->encoded + n, "\"}");
}

// MessagePack: [["put", key, value], ...]
static size_t encode_batch(worker_t *w) {
  unsigned char *p = (unsigned char *)w->encoded;
  *p++ = 0xdc;  // array, 16 bits of length
  *p++ = w->n_keys >> 8;
  *p++ = w->n_keys;
  for (uint64_t i = 0; i < w->n_keys; i++) {
    uint64_t index = w->index + i * opt.step;
    memcpy(p, "\x93\xa3put", 5);  // array of 3; text of 3
    p += 5;
    *p++ = 0xa0 | KEY_CHARS;
    key_text(index, (char *)p);
    p += KEY_CHARS;
    *p++ = 0xc6;  // bytes, 32 bits of length
    uint32_t length = htonl(opt.size);
    memcpy(p, &length, 4);
    memcpy(p + 4, value_of(index), opt.size);
    p += 4 + opt.size;
  }
  return p - (unsigned char *)w->encoded;
}

static void build(worker_t *w) {
  static const char *verbs[] = {"PUT", "GET", "DELETE"};
  const char *verb = opt.mode == RAW ? verbs[opt.op] : "POST", *type = "";
  w->body = NULL;
  w->body_len = 0;
  if (opt.mode == ETCD) {
    w->body = w->encoded;
    w->body_len = encode_etcd(w);
    type = "Content-Type: application/json\r\n";
  } else if (opt.mode == BATCH) {
    w->body = w->encoded;
    w->body_len = encode_batch(w);
    type = "Content-Type: application/msgpack\r\n";
  } else if (opt.op == PUT) {
    w->body = value_of(w->index);
    w->body_len = opt.size;
  }
  char *h = w->head;
  int room = sizeof w->head, n;
  n = snprintf(h, room, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: kvbench\r\nAccept: */*\r\n%s%s",
               verb, w->path, targets[w->current].name, type, opt.headers);
  if (w->body) n += snprintf(h + n, room - n, "Content-Length: %zu\r\n", w->body_len);
  w->head_len = n + snprintf(h + n, room - n, "\r\n");
}

static void step_send(worker_t *w) {
  size_t head = w->head_len, total = head + w->body_len;
  while (w->sent < total) {
    struct iovec v[2];
    int n = 0;
    if (w->sent < head) v[n++] = (struct iovec){w->head + w->sent, head - w->sent};
    size_t from = w->sent < head ? 0 : w->sent - head;
    if (w->body_len) v[n++] = (struct iovec){(char *)w->body + from, w->body_len - from};
    struct msghdr message = {.msg_iov = v, .msg_iovlen = n};
    ssize_t r = sendmsg(w->conns[w->current].fd, &message, MSG_NOSIGNAL);
    if (r < 0 && errno == EAGAIN) {
      watch(w, EPOLLOUT, EPOLL_CTL_MOD);
      return;
    }
    if (r < 0) break;  // closed early, perhaps after an answer: read what there is
    w->sent += r;
  }
  w->state = RECEIVING;
  watch(w, EPOLLIN, EPOLL_CTL_MOD);
}

static void send_request(worker_t *w) {
  conn_t *c = &w->conns[w->current];
  w->sent = 0;
  w->answer_len = 0;
  build(w);
  if (c->fd >= 0) {
    w->state = SENDING;
    step_send(w);
    return;
  }
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) {
    perror("socket");
    exit(2);
  }
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  connects++;
  struct sockaddr *address = (struct sockaddr *)&targets[w->current].address;
  if (connect(c->fd, address, sizeof(struct sockaddr_in)) < 0 && errno != EINPROGRESS) {
    give_up(w);
    return;
  }
  w->state = CONNECTING;
  watch(w, EPOLLOUT, EPOLL_CTL_ADD);
}

static void begin(worker_t *w) {
  char key[KEY_CHARS + 1];
  w->hops = w->retries = w->current = 0;
  key_text(w->index, key);
  if (opt.mode == ETCD)
    strcpy(w->path, opt.op == PUT   ? "/v3/kv/put"
                    : opt.op == GET ? "/v3/kv/range"
                                    : "/v3/kv/deleterange");
  else
    snprintf(w->path, sizeof w->path, opt.path, key);
  send_request(w);
}

// The next operation for an idle worker: now, when it is due, or none.
static void take_operation(worker_t *w) {
  uint64_t k = next_op, first = k * (opt.mode == BATCH ? opt.batch : 1);
  int used_up = (opt.ops_max && k >= opt.ops_max);
  used_up |= opt.op != GET && opt.keys && first >= opt.keys;
  if (stopping || used_up) {
    active--;
    return;
  }
  next_op++;
  uint64_t nth = opt.op == GET ? next_random() % opt.keys : first;
  w->index = opt.start + opt.step * nth;
  w->n_keys = opt.mode == BATCH ? (uint64_t)opt.batch : 1;
  if (opt.op != GET && opt.keys && first + w->n_keys > opt.keys) w->n_keys = opt.keys - first;
  w->due = opt.rate > 0 ? t_start + k / opt.rate : now();
  if (opt.rate > 0 && w->due > now())
    waiting[wait_tail++ % opt.conns] = w - workers;
  else
    begin(w);
}

// ---- answers

static int header(const char *head, int head_len, const char *name, const char **value) {
  int name_len = strlen(name);
  for (const char *p = head, *end = head + head_len, *eol; p < end; p = eol + 1) {
    eol = memchr(p, '\n', end - p);
    if (!eol) break;
    if (eol - p <= name_len || p[name_len] != ':' || strncasecmp(p, name, name_len)) continue;
    for (p += name_len + 1; p < eol && *p == ' '; p++) continue;
    *value = p;
    return eol - p - (eol > p && eol[-1] == '\r');
  }
  return -1;
}

// 1 when the chunked body is complete, 0 when more is wanted, -1 on nonsense.
static int unchunk(const char *p, const char *end, answer_t *a) {
  a->body = unchunked;
  a->body_len = 0;
  for (;;) {
    const char *eol = memchr(p, '\n', end - p);
    if (!eol) return 0;
    long n = strtol(p, NULL, 16);
    p = eol + 1;
    if (n == 0) return end - p >= 2;
    if (n < 0 || a->body_len + n > ANSWER_MAX) return -1;
    if (end - p < n + 2) return 0;
    memcpy(unchunked + a->body_len, p, n);
    a->body_len += n;
    p += n + 2;
  }
}

// 1 when the answer is complete, 0 when more is wanted, -1 on nonsense.
static int parse(worker_t *w, int eof, answer_t *a) {
  char *h = w->answer, *end = w->answer + w->answer_len, *blank;
  const char *v;
  int n;
  *end = 0;
  for (;; h = blank + 4) {  // past each 1xx
    blank = memmem(h, end - h, "\r\n\r\n", 4);
    if (!blank) return 0;
    if (strncmp(h, "HTTP/1.", 7)) return -1;
    a->status = atoi(h + 9);
    if (a->status < 100 || a->status > 999) return -1;
    if (a->status >= 200) break;
  }
  int head_len = blank + 2 - h;
  n = header(h, head_len, "Connection", &v);
  a->closes = n == 5 && !strncasecmp(v, "close", 5);
  n = header(h, head_len, "Location", &v);
  snprintf(a->location, sizeof a->location, "%.*s", n > 0 ? n : 0, n > 0 ? v : "");
  a->body = blank + 4;
  a->body_len = 0;
  if (a->status == 204 || a->status == 304) return 1;
  n = header(h, head_len, "Transfer-Encoding", &v);
  if (n >= 7 && !strncasecmp(v + n - 7, "chunked", 7)) return unchunk(a->body, end, a);
  if (header(h, head_len, "Content-Length", &v) >= 0) {
    a->body_len = atol(v);
    return end - a->body >= a->body_len;
  }
  a->closes = 1;
  a->body_len = end - a->body;
  return eof;
}

// The next byte behind one MessagePack nil, text or small number; NULL for anything else.
static const unsigned char *skip_item(const unsigned char *p, const unsigned char *end) {
  if (p >= end) return NULL;
  if (*p == 0xc0 || *p < 0x80) return p + 1;
  if ((*p & 0xe0) == 0xa0) return p + 1 + (*p & 0x1f);
  if (*p == 0xd9 && p + 1 < end) return p + 2 + p[1];
  return NULL;
}

// MessagePack: [[status, ...], ...], one 200 or 201 for every key.
static int batch_is_right(worker_t *w, answer_t *a) {
  const unsigned char *p = (const unsigned char *)a->body, *end = p + a->body_len;
  uint64_t count = 0;
  if (p < end && (*p & 0xf0) == 0x90) {
    count = *p++ & 0x0f;
  } else if (end - p >= 3 && *p == 0xdc) {
    count = p[1] << 8 | p[2];
    p += 3;
  }
  if (count != w->n_keys) return 0;
  for (uint64_t i = 0; i < count; i++) {
    if (end - p < 3 || (*p & 0xf0) != 0x90) return 0;
    int items = *p & 0x0f;
    if (p[1] != 0xcc || (p[2] != 200 && p[2] != 201)) return 0;
    for (p += 3; items > 1; items--)
      if (!(p = skip_item(p, end))) return 0;
  }
  return p == end;
}

static int is_right(worker_t *w, answer_t *a) {
  if (a->status < 200 || a->status > 299) return 0;
  int right = 1;
  if (opt.mode == BATCH) {
    right = batch_is_right(w, a);
  } else if (opt.op == GET && opt.mode == ETCD) {
    int n = base64(value_of(w->index), opt.size, w->encoded);
    right = memmem(a->body, a->body_len, w->encoded, n) != NULL;
  } else if (opt.op == GET && a->body_len != opt.size) {
    bad_length++;
    return 0;
  } else if (opt.op == GET) {
    right = !memcmp(a->body, value_of(w->index), opt.size);
  } else if (opt.op == DEL && opt.mode == ETCD) {
    right = memmem(a->body, a->body_len, "\"deleted\"", 9) != NULL;
  }
  bad_bytes += !right;
  return right;
}

static void redirect(worker_t *w, const char *location) {
  char host[256];
  int port = 80, path_at = 0;
  if (++w->hops > HOPS_MAX) {
    finish(w, 0);
    return;
  }
  if (sscanf(location, "http://%255[^:/]%n", host, &path_at) == 1) {
    location += path_at;
    if (*location == ':') port = strtol(location + 1, (char **)&location, 10);
    w->current = target_of(host, port);
  }
  snprintf(w->path, sizeof w->path, "%s", *location ? location : "/");
  w->retries = 0;
  send_request(w);
}

static void step_receive(worker_t *w) {
  conn_t *c = &w->conns[w->current];
  int eof = 0;
  for (;;) {
    int room = ANSWER_MAX - 1 - w->answer_len;
    if (room == 0) {
      give_up(w);
      return;
    }
    ssize_t r = recv(c->fd, w->answer + w->answer_len, room, 0);
    if (r < 0 && errno == EAGAIN) break;
    eof = r <= 0;
    if (eof) break;
    w->answer_len += r;
    if (r < 4096) break;  // most likely all there is: saves a call that says EAGAIN
  }
  if (eof && w->answer_len == 0 && c->used && w->retries++ < RETRIES_MAX) {
    close_conn(w, w->current);  // kept alive and closed under us: once more on a fresh one
    send_request(w);
    return;
  }
  answer_t a;
  int r = parse(w, eof, &a);
  if (r == 0 && !eof) return;
  if (r <= 0) {
    give_up(w);
    return;
  }
  c->used = 1;
  if (a.closes || eof) close_conn(w, w->current);
  if (a.status >= 300 && a.status < 400 && a.location[0]) {
    redirect(w, a.location);
    return;
  }
  statuses[a.status]++;
  finish(w, is_right(w, &a));
}

static void step_connect(worker_t *w) {
  int error = 0;
  socklen_t n = sizeof error;
  getsockopt(w->conns[w->current].fd, SOL_SOCKET, SO_ERROR, &error, &n);
  if (error) {
    give_up(w);
    return;
  }
  w->state = SENDING;
  step_send(w);
}

// ---- the loop

static void handle(struct epoll_event *e) {
  worker_t *w = &workers[(uint32_t)e->data.u64];
  int t = e->data.u64 >> 32;
  if (t != w->current || w->state == IDLE)
    close_conn(w, t);  // nothing was asked on it: the server closed it
  else if (w->state == CONNECTING)
    step_connect(w);
  else if (w->state == SENDING && e->events & EPOLLOUT)
    step_send(w);
  else
    step_receive(w);
}

static void begin_due(double t) {
  while (wait_head < wait_tail) {
    worker_t *w = &workers[waiting[wait_head % opt.conns]];
    if (!stopping && w->due > t) return;
    wait_head++;
    if (stopping)
      active--;
    else
      begin(w);
  }
}

static int wait_ms(void) {
  if (wait_head == wait_tail) return 100;
  double left = workers[waiting[wait_head % opt.conns]].due - now();
  if (left <= 0) return 0;
  if (left < 1e-3 && active == wait_tail - wait_head) {  // nothing to hear before it is due
    struct timespec pause = {0, (long)(left * 5e8)};
    nanosleep(&pause, NULL);
  }
  return (int)(left * 1e3);
}

static void run(void) {
  struct epoll_event events[256];
  uint64_t done_before = 0;
  double heard = t_start;
  for (;;) {
    while (n_ready) take_operation(&workers[ready[--n_ready]]);
    if (active <= 0) return;
    int n = epoll_wait(epoll_fd, events, 256, wait_ms());
    double t = now();
    if (t >= t_end) stopping = 1;
    begin_due(t);
    for (int i = 0; i < n; i++) handle(&events[i]);
    if (done != done_before || wait_head < wait_tail) {
      done_before = done;
      heard = t;
    } else if (t - heard > SILENCE_S) {
      fprintf(stderr, "no answer for %.0f s: %d requests abandoned\n", SILENCE_S, active);
      failed += active;
      return;
    }
  }
}

// ---- the report

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static double percentile_ms(double p) {
  return n_latencies ? latencies[(size_t)(p * (n_latencies - 1) + 0.5)] / 1e3 : 0;
}

static void report(double elapsed) {
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  double cpu = use.ru_utime.tv_sec + use.ru_stime.tv_sec +
               (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
  double sum = 0;
  qsort(latencies, n_latencies, sizeof *latencies, compare);
  for (size_t i = 0; i < n_latencies; i++) sum += latencies[i];
  printf("{\"label\":\"%s\",\"connections\":%d,\"seconds\":%.4f,\"ok\":%lu,\"failed\":%lu,",
         opt.label, opt.conns, elapsed, ok, failed);
  printf("\"keys\":%lu,\"operations_per_s\":%.1f,\"keys_per_s\":%.1f,", keys_ok, ok / elapsed,
         keys_ok / elapsed);
  printf("\"mean_ms\":%.4f,\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f,",
         n_latencies ? sum / n_latencies / 1e3 : 0, percentile_ms(.5), percentile_ms(.9),
         percentile_ms(.99), percentile_ms(.999));
  printf("\"max_ms\":%.3f,\"connects\":%lu,\"net_errors\":%lu,", percentile_ms(1), connects,
         net_errors);
  printf("\"bad_length\":%lu,", bad_length);
  printf("\"bad_bytes\":%lu,\"generator_cpu_s\":%.2f,\"statuses\":{", bad_bytes, cpu);
  const char *comma = "";
  for (int i = 0; i < 1000; i++) {
    if (!statuses[i]) continue;
    printf("%s\"%d\":%lu", comma, i, statuses[i]);
    comma = ",";
  }
  printf("}}\n");
}

static void usage(void) {
  fprintf(stderr,
          "kvbench -u http://127.0.0.1:PORT -o put|get|del [-m raw|etcd|batch] [-f /path/%%s]\n"
          "  -c CONNECTIONS   (16)      -d SECONDS  (5)       -r OPS per second: open loop\n"
          "  -n KEYS   put, del: each once; get: picked uniformly among them (needed)\n"
          "  -N OPS    stop after so many                     -s INDEX of the first key (0)\n"
          "  -z BYTES of a value (1024) -e SEED (1)           -k KEYS per batch (500)\n"
          "  -t STEP between key indexes (1)                  -H 'Name: value' one more header\n"
          "  -l LABEL for the report\n");
  exit(2);
}

static int choice(const char *word, const char *const *words) {
  for (int i = 0; words[i]; i++)
    if (!strcmp(word, words[i])) return i;
  usage();
  return -1;
}

static void set_url(const char *url) {
  char host[128];
  int port = 80;
  if (sscanf(url, "http://%127[^:/]:%d", host, &port) < 1) usage();
  target_of(host, port);
}

static void set_options(int argc, char **argv) {
  static const char *ops[] = {"put", "get", "del", NULL}, *modes[] = {"raw", "etcd", "batch", NULL};
  int o;
  while ((o = getopt(argc, argv, "u:o:m:f:c:d:r:n:N:s:t:z:e:k:H:l:")) != -1) switch (o) {
      case 'u': set_url(optarg); break;
      case 'o': opt.op = choice(optarg, ops); break;
      case 'm': opt.mode = choice(optarg, modes); break;
      case 'f': opt.path = optarg; break;
      case 'c': opt.conns = atoi(optarg); break;
      case 'd': opt.seconds = atof(optarg); break;
      case 'r': opt.rate = atof(optarg); break;
      case 'n': opt.keys = strtoull(optarg, NULL, 10); break;
      case 'N': opt.ops_max = strtoull(optarg, NULL, 10); break;
      case 's': opt.start = strtoull(optarg, NULL, 10); break;
      case 't': opt.step = strtoull(optarg, NULL, 10); break;
      case 'z': opt.size = atoi(optarg); break;
      case 'e': opt.seed = strtoull(optarg, NULL, 10); break;
      case 'k': opt.batch = atoi(optarg); break;
      case 'H': snprintf(opt.headers, sizeof opt.headers, "%s\r\n", optarg); break;
      case 'l': opt.label = optarg; break;
      default: usage();
    }
  int bad_number = opt.size < 0 || opt.size > ANSWER_MAX / 2 || opt.conns < 1;
  bad_number |= opt.batch < 1 || opt.batch > 65535;
  if (!n_targets || bad_number || (opt.op == GET && !opt.keys)) usage();
  if (opt.mode == BATCH && opt.op != PUT) usage();
}

static void prepare(void) {
  pool = malloc(POOL_BYTES);
  unchunked = malloc(ANSWER_MAX);
  random_state = 42;
  for (int i = 0; i < POOL_BYTES; i += 8) {
    uint64_t r = next_random();
    memcpy(pool + i, &r, 8);
  }
  random_state = mix(opt.seed * 77 + time(NULL));
  epoll_fd = epoll_create1(0);
  workers = calloc(opt.conns, sizeof *workers);
  waiting = calloc(opt.conns, sizeof *waiting);
  ready = calloc(opt.conns, sizeof *ready);
  size_t encoded = 256 + 2 * (size_t)opt.size;
  if (opt.mode == BATCH) encoded += (size_t)opt.batch * (opt.size + 64);
  for (int i = 0; i < opt.conns; i++) {
    workers[i].answer = malloc(ANSWER_MAX);
    if (opt.mode != RAW) workers[i].encoded = malloc(encoded);
    for (int t = 0; t < TARGETS_MAX; t++) workers[i].conns[t].fd = -1;
    ready[n_ready++] = i;
  }
  active = opt.conns;
}

static void stop(int signal_number) {
  (void)signal_number;
  stopping = 1;
}

int main(int argc, char **argv) {
  set_options(argc, argv);
  prepare();
  struct sigaction action = {.sa_handler = stop};
  sigaction(SIGTERM, &action, NULL);
  t_start = now();
  t_end = t_start + opt.seconds;
  run();
  report(now() - t_start);
  return 0;
}
