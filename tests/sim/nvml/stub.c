/* A stand-in for the NVIDIA driver's library: as much of NVML as pynvml and tychod ask of it.
 *
 * It answers from a world file (world.h), named by TYCHOD_SIM_NVML, which it opens at nvmlInit. */
#define _GNU_SOURCE
#include "world.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Return codes and constants of nvml.h. */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
};
#define FI_POWER_AVERAGE 185
#define FI_POWER_INSTANT 186
#define TYPE_UNSIGNED_INT 1
#define ALL_ONES 0xffffffffu
#define NS 1000000000

typedef int nvmlReturn_t;

/* A handle is a device of the world, or one of its instances. */
struct handle {
    int device;
    int instance; /* -1: the whole device */
};

struct field_value {
    uint32_t field, scope;
    int64_t timestamp, latency;
    uint32_t type, result;
    union { uint32_t u; uint64_t ull; double d; } value;
};
struct utilisation { uint32_t gpu, memory; };
struct memory { uint64_t total, free, used; };
struct memory_v2 { uint32_t version; uint64_t total, reserved, free, used; };
struct pci_info {
    char legacy[16];
    uint32_t domain, bus, device, pci_device, subsystem;
    char bus_id[32];
};
struct process_info { uint32_t pid; uint64_t memory; uint32_t gpu_instance, compute_instance; };
struct process_use { uint32_t pid; uint64_t t_us; uint32_t sm, memory, encoder, decoder; };
struct attributes { uint32_t unused[6], gpu_slices, compute_slices; uint64_t memory_mib; };
struct gpm_support { uint32_t version, is_supported; };
struct gpm_sample { int64_t t_ns; int device; uint32_t gpu_instance; };
struct gpm_metric { uint32_t id, result; double value; const char *names[3]; };
struct gpm_get { uint32_t version, count; struct gpm_sample *first, *second; struct gpm_metric metrics[]; };

static struct world *world;
static struct world *retired; /* the world before, for threads that are still inside a call */
static uint32_t generation;
static int opened;
static int known[MAX_DEVICES], known_count; /* devices that were present when it was opened */
static struct handle handles[MAX_DEVICES][1 + MAX_INSTANCES];

static int64_t now_ns(void)
{
    struct timespec t;

    if (world && world->clock_ns)
        return world->clock_ns;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS + t.tv_nsec;
}

static int64_t wall_us(void)
{
    struct timespec t;

    if (world->clock_ns)
        return (world->clock_ns + world->wall_offset_ns) / 1000;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static struct world *map_world(void)
{
    const char *path = getenv("TYCHOD_SIM_NVML");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    struct world *found;

    if (fd < 0)
        return NULL;
    if (lseek(fd, 0, SEEK_END) < (off_t)sizeof(struct world)) {
        close(fd);
        return NULL;
    }
    found = mmap(NULL, sizeof(struct world), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found == MAP_FAILED)
        return NULL;
    if (found->magic != WORLD_MAGIC || found->size != sizeof(struct world)) {
        munmap(found, sizeof(struct world));
        return NULL;
    }
    return found;
}

API uint64_t tychod_sim_world_size(void)
{
    return sizeof(struct world);
}

static nvmlReturn_t check_library(void)
{
    if (!opened || !world || world->generation != generation)
        return UNINITIALIZED;
    return world->init_error ? (nvmlReturn_t)world->init_error : SUCCESS;
}

API nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    struct world *found = opened ? world : map_world();

    (void)flags;
    if (!found)
        return DRIVER_NOT_LOADED;
    if (found != world) {
        if (retired)
            munmap(retired, sizeof(struct world));
        retired = world;
        world = found;
    }
    if (found->init_error)
        return (nvmlReturn_t)found->init_error;
    generation = found->generation;
    opened++;
    known_count = 0;
    for (int i = 0; i < (int)found->device_count && i < MAX_DEVICES; i++) {
        if (found->devices[i].present)
            known[known_count++] = i;
        for (int k = 0; k <= MAX_INSTANCES; k++)
            handles[i][k] = (struct handle){i, k - 1};
    }
    return SUCCESS;
}

API nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

API nvmlReturn_t nvmlShutdown(void)
{
    if (!opened)
        return UNINITIALIZED;
    opened--;
    return SUCCESS;
}

API const char *nvmlErrorString(nvmlReturn_t code)
{
    return code == SUCCESS ? "Success" : "Simulated error";
}

static nvmlReturn_t copy_text(char *to, unsigned int size, const char *from)
{
    size_t length = strnlen(from, NAME_BYTES);

    if (length + 1 > size)
        return INSUFFICIENT_SIZE;
    memcpy(to, from, length);
    to[length] = 0;
    return SUCCESS;
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    nvmlReturn_t code = check_library();

    return code ? code : copy_text(version, length, world->driver_version);
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    nvmlReturn_t code = check_library();

    if (!code)
        *count = (unsigned int)known_count;
    return code;
}

/* Every question about a device comes through here: it counts them, blocks, and may refuse. */
static nvmlReturn_t enter(const struct handle *handle, struct device **device)
{
    nvmlReturn_t code = check_library();
    int64_t block_ns;

    if (code)
        return code;
    if (!handle)
        return INVALID_ARGUMENT;
    *device = &world->devices[handle->device];
    (*device)->calls++;
    block_ns = (*device)->block_ns;
    if (block_ns > 0) {
        struct timespec pause = {block_ns / NS, block_ns % NS};

        (*device)->block_ns = 0;
        nanosleep(&pause, NULL);
    }
    return (*device)->lost || !(*device)->present ? GPU_IS_LOST : SUCCESS;
}

static nvmlReturn_t enter_whole(const struct handle *handle, struct device **device)
{
    nvmlReturn_t code = enter(handle, device);

    return code ? code : handle->instance >= 0 ? NOT_SUPPORTED : SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct handle **handle)
{
    nvmlReturn_t code = check_library();
    struct device *device;

    if (code)
        return code;
    if (index >= (unsigned int)known_count)
        return INVALID_ARGUMENT;
    *handle = &handles[known[index]][0];
    return enter(*handle, &device);
}

static const struct instance *instance_of(const struct device *device, const struct handle *handle)
{
    return handle->instance < 0 ? NULL : &device->instances[handle->instance];
}

API nvmlReturn_t nvmlDeviceGetUUID(struct handle *handle, char *uuid, unsigned int length)
{
    struct device *device;
    nvmlReturn_t code = enter(handle, &device);
    const struct instance *part;

    if (code)
        return code;
    part = instance_of(device, handle);
    return copy_text(uuid, length, part ? part->uuid : device->uuid);
}

API nvmlReturn_t nvmlDeviceGetName(struct handle *handle, char *name, unsigned int length)
{
    struct device *device;
    nvmlReturn_t code = enter(handle, &device);
    const struct instance *part;
    char text[2 * NAME_BYTES + 8];

    if (code)
        return code;
    part = instance_of(device, handle);
    snprintf(text, sizeof text, "%.*s%s%.*s", NAME_BYTES - 1, device->name, part ? " MIG " : "",
             NAME_BYTES - 1, part ? part->profile : "");
    return copy_text(name, length, text);
}

API nvmlReturn_t nvmlDeviceGetVbiosVersion(struct handle *handle, char *version, unsigned int length)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    return code ? code : copy_text(version, length, device->vbios);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(struct handle *handle, struct pci_info *info)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (code)
        return code;
    memset(info, 0, sizeof *info);
    info->pci_device = device->pci_device << 16 | 0x10de;
    return copy_text(info->bus_id, sizeof info->bus_id, device->pci);
}

API nvmlReturn_t nvmlDeviceGetArchitecture(struct handle *handle, unsigned int *architecture)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (!code)
        *architecture = device->architecture;
    return code;
}

API nvmlReturn_t nvmlDeviceGetBrand(struct handle *handle, unsigned int *brand)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (!code)
        *brand = 2; /* NVML_BRAND_TESLA */
    return code;
}

API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(struct handle *handle,
                                                              unsigned int *least,
                                                              unsigned int *most)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (code || !device->max_power_mw)
        return code ? code : NOT_SUPPORTED;
    *least = device->max_power_mw / 4;
    *most = device->max_power_mw;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(struct handle *handle,
                                                     unsigned long long *energy_mj)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (code || device->counter == COUNTER_NONE)
        return code ? code : NOT_SUPPORTED;
    device->counter_calls++;
    *energy_mj = counter_mj(device, last_publish(device, now_ns()));
    return SUCCESS;
}

/* The mean of the true power over a while before the last update, in milliwatts. */
static uint32_t mean_mw(const struct device *device, int64_t over_ns)
{
    struct publish at = last_publish(device, now_ns());

    if (device->lacks & TELLS_ALL_ONES)
        return ALL_ONES;
    if (at.index < 0 || over_ns <= 0)
        return 0;
    return (uint32_t)(true_energy_pj(device, at.t_ns - over_ns, at.t_ns) / (uint64_t)over_ns);
}

/* As the driver has it: averaged since Ampere, but not on GA100 (0x2080 to 0x20ff). */
static int is_averaging(const struct device *device)
{
    return device->architecture >= 7 && (device->pci_device & 0xff80) != 0x2080;
}

API nvmlReturn_t nvmlDeviceGetPowerUsage(struct handle *handle, unsigned int *power_mw)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (code || device->lacks & LACKS_USAGE)
        return code ? code : NOT_SUPPORTED;
    *power_mw = mean_mw(device, is_averaging(device) ? device->average_ns : device->sensor_ns);
    return SUCCESS;
}

static void fill_field(const struct device *device, struct field_value *field)
{
    int has_average = is_averaging(device) && !(device->lacks & LACKS_AVERAGE);

    field->result = NOT_SUPPORTED;
    field->type = TYPE_UNSIGNED_INT;
    field->timestamp = wall_us();
    if (field->field == FI_POWER_INSTANT && !(device->lacks & LACKS_INSTANT)) {
        field->value.u = mean_mw(device, device->sensor_ns);
        field->result = SUCCESS;
    } else if (field->field == FI_POWER_AVERAGE && has_average) {
        field->value.u = mean_mw(device, device->average_ns);
        field->result = SUCCESS;
    }
}

API nvmlReturn_t nvmlDeviceGetFieldValues(struct handle *handle, int count,
                                          struct field_value *fields)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    for (int i = 0; !code && i < count; i++)
        fill_field(device, &fields[i]);
    return code;
}

static int is_alive(const struct process *process, int64_t t_ns)
{
    return process->from_ns <= t_ns && t_ns < process->until_ns;
}

API nvmlReturn_t nvmlDeviceGetUtilizationRates(struct handle *handle, struct utilisation *rates)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);
    int64_t t_ns = code ? 0 : last_publish(device, now_ns()).t_ns;

    if (code || device->mig || device->lacks & LACKS_UTILISATION)
        return code ? code : NOT_SUPPORTED;
    *rates = (struct utilisation){0, 0};
    for (uint32_t i = 0; i < device->process_count; i++) {
        const struct process *process = &device->processes[i];

        if (is_alive(process, t_ns)) {
            rates->gpu += process->sm;
            rates->memory += process->memory;
        }
    }
    rates->gpu = rates->gpu < 100 ? rates->gpu : 100;
    rates->memory = rates->memory < 100 ? rates->memory : 100;
    return SUCCESS;
}

static uint64_t memory_used(const struct device *device)
{
    uint64_t used = 0;

    for (uint32_t i = 0; i < device->process_count; i++)
        if (is_alive(&device->processes[i], now_ns()))
            used += device->processes[i].memory_bytes;
    return used < device->memory_total_bytes ? used : device->memory_total_bytes;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo(struct handle *handle, struct memory *memory)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (!code) {
        memory->used = memory_used(device);
        memory->total = device->memory_total_bytes;
        memory->free = memory->total - memory->used;
    }
    return code;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(struct handle *handle, struct memory_v2 *memory)
{
    struct memory plain;
    nvmlReturn_t code = nvmlDeviceGetMemoryInfo(handle, &plain);

    if (!code) {
        memory->total = plain.total;
        memory->reserved = 0;
        memory->free = plain.free;
        memory->used = plain.used;
    }
    return code;
}

API nvmlReturn_t nvmlDeviceGetClockInfo(struct handle *handle, unsigned int kind, unsigned int *mhz)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (!code)
        *mhz = kind == 2 ? 2619 : device->pstate ? 345 : 1755;
    return code;
}

API nvmlReturn_t nvmlDeviceGetPerformanceState(struct handle *handle, unsigned int *pstate)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (!code)
        *pstate = device->pstate;
    return code;
}

API nvmlReturn_t nvmlDeviceGetTemperature(struct handle *handle, unsigned int sensor,
                                          unsigned int *celsius)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    (void)sensor;
    if (!code)
        *celsius = 30 + mean_mw(device, device->sensor_ns) % 100000000 / 12000;
    return code;
}

static nvmlReturn_t list_processes(struct handle *handle, unsigned int *count,
                                   struct process_info *found, uint32_t list)
{
    struct device *device;
    nvmlReturn_t code = enter(handle, &device);
    unsigned int room = code ? 0 : *count, n = 0;
    const struct instance *part;

    if (code)
        return code;
    part = instance_of(device, handle);
    if (!part && device->lacks & LACKS_PARENT_LISTS)
        return NO_PERMISSION;
    for (uint32_t i = 0; i < device->process_count; i++) {
        const struct process *p = &device->processes[i];

        if (p->list != list || !is_alive(p, now_ns()))
            continue;
        if (part && p->gpu_instance != part->gpu_instance)
            continue;
        if (found && n < room)
            found[n] = (struct process_info){p->pid, p->memory_bytes, p->gpu_instance, ALL_ONES};
        n++;
    }
    *count = n;
    return n > room || (n && !found) ? INSUFFICIENT_SIZE : SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(struct handle *handle, unsigned int *count,
                                                         struct process_info *found)
{
    return list_processes(handle, count, found, LIST_COMPUTE);
}

API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(struct handle *handle, unsigned int *count,
                                                          struct process_info *found)
{
    return list_processes(handle, count, found, LIST_GRAPHICS);
}

API nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(struct handle *handle,
                                                            unsigned int *count,
                                                            struct process_info *found)
{
    return list_processes(handle, count, found, LIST_MPS);
}

/* Nanoseconds that a process was there between two times. */
static int64_t presence_ns(const struct process *process, int64_t from_ns, int64_t until_ns)
{
    int64_t begin = process->from_ns > from_ns ? process->from_ns : from_ns;
    int64_t end = process->until_ns < until_ns ? process->until_ns : until_ns;

    return end > begin ? end - begin : 0;
}

/* One sample a process: its mean use since then, for at most ten seconds. */
API nvmlReturn_t nvmlDeviceGetProcessUtilization(struct handle *handle, struct process_use *found,
                                                 unsigned int *count, unsigned long long since_us)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);
    int64_t until_ns = now_ns(), span_ns;
    unsigned int n = 0;

    if (code || device->mig || device->lacks & LACKS_PROCESS_USE)
        return code ? code : NOT_SUPPORTED;
    span_ns = (wall_us() - (int64_t)since_us) * 1000;
    span_ns = span_ns < 10LL * NS ? span_ns : 10LL * NS;
    for (uint32_t i = 0; i < device->process_count && span_ns > 0; i++) {
        const struct process *p = &device->processes[i];
        int64_t there_ns = presence_ns(p, until_ns - span_ns, until_ns);
        uint64_t share = (uint64_t)(there_ns * 1000 / span_ns);

        if (!there_ns || !p->sm)
            continue;
        if (found && n < *count)
            found[n] = (struct process_use){p->pid, (uint64_t)wall_us(),
                                            (uint32_t)(p->sm * share / 1000),
                                            (uint32_t)(p->memory * share / 1000), p->encoder,
                                            p->decoder};
        n++;
    }
    if (!n)
        return NOT_FOUND;
    code = !found || *count < n ? INSUFFICIENT_SIZE : SUCCESS;
    *count = n;
    return code;
}

API nvmlReturn_t nvmlDeviceGetMigMode(struct handle *handle, unsigned int *current,
                                      unsigned int *pending)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (code || device->architecture < 7)
        return code ? code : NOT_SUPPORTED;
    *current = *pending = device->mig;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(struct handle *handle, unsigned int *count)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (!code)
        *count = MAX_INSTANCES;
    return code;
}

API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(struct handle *handle, unsigned int index,
                                                     struct handle **part)
{
    struct device *device;
    nvmlReturn_t code = enter_whole(handle, &device);

    if (code || !device->mig || index >= device->instance_count || index >= MAX_INSTANCES)
        return code ? code : NOT_FOUND;
    *part = &handles[handle->device][1 + index];
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceId(struct handle *handle, unsigned int *id)
{
    struct device *device;
    nvmlReturn_t code = enter(handle, &device);
    const struct instance *part = code ? NULL : instance_of(device, handle);

    if (code || !part)
        return code ? code : NOT_SUPPORTED;
    *id = part->gpu_instance;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetAttributes_v2(struct handle *handle, struct attributes *attributes)
{
    struct device *device;
    nvmlReturn_t code = enter(handle, &device);
    const struct instance *part = code ? NULL : instance_of(device, handle);

    if (code || !part)
        return code ? code : NOT_SUPPORTED;
    memset(attributes, 0, sizeof *attributes);
    attributes->gpu_slices = attributes->compute_slices = part->slices;
    attributes->memory_mib = part->memory_mib;
    return SUCCESS;
}

API nvmlReturn_t nvmlGpmQueryDeviceSupport(struct handle *handle, struct gpm_support *support)
{
    struct device *device;
    nvmlReturn_t code = enter(handle, &device);

    if (!code)
        support->is_supported = device->architecture >= 9 && !(device->lacks & LACKS_GPM);
    return code;
}

API nvmlReturn_t nvmlGpmSampleAlloc(struct gpm_sample **sample)
{
    *sample = calloc(1, sizeof **sample);
    return *sample ? SUCCESS : INSUFFICIENT_SIZE;
}

API nvmlReturn_t nvmlGpmSampleFree(struct gpm_sample *sample)
{
    free(sample);
    return SUCCESS;
}

API nvmlReturn_t nvmlGpmMigSampleGet(struct handle *handle, unsigned int gpu_instance,
                                     struct gpm_sample *sample)
{
    struct device *device;
    nvmlReturn_t code = enter(handle, &device);

    if (!code)
        *sample = (struct gpm_sample){now_ns(), handle->device, gpu_instance};
    return code;
}

API nvmlReturn_t nvmlGpmMetricsGet(struct gpm_get *get)
{
    nvmlReturn_t code = check_library();
    const struct device *device;

    if (code || get->count != 1 || get->first->t_ns >= get->second->t_ns)
        return code ? code : INVALID_ARGUMENT;
    device = &world->devices[get->first->device];
    get->metrics[0].result = NOT_FOUND;
    for (uint32_t i = 0; i < device->instance_count; i++) {
        if (device->instances[i].gpu_instance == get->first->gpu_instance) {
            get->metrics[0].value = device->instances[i].activity * 100;
            get->metrics[0].result = SUCCESS;
        }
    }
    return SUCCESS;
}
