/* What the GPUs of a simulated machine really do, in a file that a test writes (world.py) and the
 * stub library maps.  Times are nanoseconds of CLOCK_MONOTONIC or, where clock_ns is set, of that.
 * Everything that the stub answers follows from this file: two readers see the same. */
#ifndef TYCHOD_SIM_NVML_WORLD_H
#define TYCHOD_SIM_NVML_WORLD_H

#include <stdint.h>

#define WORLD_MAGIC 0x4c4d564eu
#define MAX_DEVICES 8
#define MAX_STEPS 4096
#define MAX_PACES 4
#define MAX_PROCESSES 32
#define MAX_INSTANCES 7
#define NAME_BYTES 96

enum { COUNTER_NONE, COUNTER_TRUE, COUNTER_SAMPLED };
enum { LIST_COMPUTE, LIST_GRAPHICS, LIST_MPS, LIST_HIDDEN };
enum {
    LACKS_INSTANT = 1,
    LACKS_AVERAGE = 2,
    LACKS_USAGE = 4,
    LACKS_UTILISATION = 8,
    LACKS_PROCESS_USE = 16,
    LACKS_PARENT_LISTS = 32,
    LACKS_GPM = 64,
    TELLS_ALL_ONES = 128,
};

struct step { /* from then on the device draws this */
    int64_t from_ns;
    uint64_t power_mw;
};

struct pace { /* from then on it publishes so often; 0: not at all */
    int64_t from_ns;
    int64_t period_ns;
};

struct process {
    int64_t from_ns;
    int64_t until_ns;
    uint64_t memory_bytes;
    uint32_t pid;
    uint32_t list;
    uint32_t gpu_instance; /* all ones: none */
    uint32_t sm, memory, encoder, decoder; /* percent */
    uint32_t reserved;
};

struct instance {
    char uuid[NAME_BYTES];
    char profile[NAME_BYTES];
    uint64_t memory_mib;
    double activity; /* 0..1 */
    uint32_t gpu_instance;
    uint32_t slices;
};

struct device {
    char uuid[NAME_BYTES];
    char name[NAME_BYTES];
    char pci[NAME_BYTES];
    char vbios[NAME_BYTES];
    int64_t sensor_ns;  /* a momentary value is the mean over so long before the update */
    int64_t average_ns; /* an averaged one over so long */
    int64_t frozen_from_ns, frozen_until_ns; /* nothing is published in between */
    int64_t counter_from_ns; /* the counter was zero then */
    int64_t block_ns;        /* the next call takes so long; the stub sets it to 0 */
    uint64_t seed;
    uint64_t memory_total_bytes;
    uint64_t calls;         /* counted by the stub */
    uint64_t counter_calls; /* of the energy counter */
    uint32_t present, lost;
    uint32_t architecture, pci_device;
    uint32_t counter, lacks;
    uint32_t max_power_mw;
    uint32_t jitter_ppm; /* each publish is moved by up to so much of the period, either way */
    uint32_t mig, pstate;
    uint32_t step_count, pace_count, process_count, instance_count;
    struct pace paces[MAX_PACES];
    struct process processes[MAX_PROCESSES];
    struct instance instances[MAX_INSTANCES];
    struct step steps[MAX_STEPS];
};

struct world {
    uint32_t magic, size;
    uint32_t device_count;
    uint32_t generation;   /* another number: the driver was restarted */
    uint32_t init_error;   /* what nvmlInit answers; 0: it works */
    uint32_t reserved;
    int64_t clock_ns;      /* 0: the real clock */
    int64_t wall_offset_ns; /* with clock_ns */
    char driver_version[NAME_BYTES];
    struct device devices[MAX_DEVICES];
};

struct publish { /* one update */
    int64_t index; /* -1: there was none yet */
    int64_t t_ns, before_ns; /* when, and the one before it */
};

#define API __attribute__((visibility("default")))

/* The last update that was published by then. */
API struct publish last_publish(const struct device *device, int64_t now_ns);

/* True energy between two times, in picojoules (milliwatts times nanoseconds). */
unsigned __int128 true_energy_pj(const struct device *device, int64_t from_ns, int64_t until_ns);

/* What the device's counter says after an update, in millijoules. */
uint64_t counter_mj(const struct device *device, struct publish at);

#endif
