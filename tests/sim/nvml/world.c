/* The truth of a simulated GPU: when it publishes, what it has drawn, what its counter then says. */
#include "world.h"

#include <string.h>

#define PJ_PER_MJ 1000000000u

/* splitmix64: the same number for the same update, in whatever order they are asked for. */
static uint64_t mixed(uint64_t seed, uint64_t index)
{
    uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Moved from its place on the grid by an even distribution, so that the order is kept. */
static int64_t publish_ns(const struct device *device, const struct pace *pace, int64_t n,
                          int64_t index)
{
    int64_t most = pace->period_ns * (int64_t)device->jitter_ppm / 1000000;
    int64_t moved = most ? (int64_t)(mixed(device->seed, (uint64_t)index) % (2 * most + 1)) - most : 0;

    return pace->from_ns + (n + 1) * pace->period_ns + moved;
}

/* How many updates a pace has room for before the next one begins. */
static int64_t pace_updates(const struct device *device, uint32_t i)
{
    const struct pace *pace = &device->paces[i];
    int64_t span;

    if (i + 1 >= device->pace_count || pace->period_ns <= 0)
        return pace->period_ns > 0 ? INT64_MAX / 4 : 0;
    span = device->paces[i + 1].from_ns - pace->from_ns;
    /* Half a period is left free, so that no jitter reaches into the next pace. */
    return span / pace->period_ns - (span % pace->period_ns < pace->period_ns / 2 ? 1 : 0);
}

static int in_frozen(const struct device *device, int64_t t_ns)
{
    return t_ns >= device->frozen_from_ns && t_ns < device->frozen_until_ns;
}

/* The time of an update by its index, over all paces; -1: it lies before all of them. */
static int64_t time_of(const struct device *device, int64_t index)
{
    int64_t first = 0;

    for (uint32_t i = 0; i < device->pace_count; i++) {
        int64_t count = pace_updates(device, i);

        if (count > 0 && index < first + count)
            return publish_ns(device, &device->paces[i], index - first, index);
        first += count > 0 ? count : 0;
    }
    return -1;
}

/* The greatest index whose time is not after now, frozen ones included. */
static int64_t index_at(const struct device *device, int64_t now_ns)
{
    int64_t first = 0, found = -1;

    for (uint32_t i = 0; i < device->pace_count && device->paces[i].from_ns <= now_ns; i++) {
        const struct pace *pace = &device->paces[i];
        int64_t count = pace_updates(device, i);
        int64_t n;

        if (count <= 0)
            continue;
        n = (now_ns - pace->from_ns) / pace->period_ns;
        n = n < count ? n : count - 1; /* at most one too many: jitter is below half a period */
        while (n >= 0 && publish_ns(device, pace, n, first + n) > now_ns)
            n--;
        if (n >= 0)
            found = first + n;
        first += count;
    }
    return found;
}

static int64_t unfrozen(const struct device *device, int64_t index)
{
    while (index >= 0 && in_frozen(device, time_of(device, index)))
        index--;
    return index;
}

struct publish last_publish(const struct device *device, int64_t now_ns)
{
    struct publish found = {-1, -1, -1};
    int64_t before;

    found.index = unfrozen(device, index_at(device, now_ns));
    if (found.index < 0)
        return found;
    found.t_ns = time_of(device, found.index);
    before = unfrozen(device, found.index - 1);
    found.before_ns = before < 0 ? device->counter_from_ns : time_of(device, before);
    return found;
}

unsigned __int128 true_energy_pj(const struct device *device, int64_t from_ns, int64_t until_ns)
{
    unsigned __int128 sum = 0;

    for (uint32_t i = 0; i < device->step_count; i++) {
        const struct step *step = &device->steps[i];
        int64_t begin = step->from_ns > from_ns ? step->from_ns : from_ns;
        int64_t end = i + 1 < device->step_count ? step[1].from_ns : INT64_MAX;

        if (step->from_ns >= until_ns)
            break;
        end = end < until_ns ? end : until_ns;
        if (end > begin)
            sum += (unsigned __int128)step->power_mw * (uint64_t)(end - begin);
    }
    return sum;
}

/* How far the sum of a sampled counter has come: a demo asks for it for hours. */
struct progress {
    const struct device *device;
    int64_t counter_from_ns, index, before_ns;
    unsigned __int128 sum;
};

static struct progress *progress_of(const struct device *device, int64_t index)
{
    static struct progress all[MAX_DEVICES];
    static int next;
    struct progress *found = NULL;

    for (int i = 0; i < MAX_DEVICES; i++)
        if (all[i].device == device)
            found = &all[i];
    if (!found) {
        found = &all[next];
        next = (next + 1) % MAX_DEVICES;
    }
    if (found->device != device || found->counter_from_ns != device->counter_from_ns ||
        found->index > index + 1)
        *found = (struct progress){device, device->counter_from_ns, 0, device->counter_from_ns, 0};
    return found;
}

/* A counter that is fed by the sensor believes each momentary value for the time since the last. */
static unsigned __int128 sampled_pj(const struct device *device, struct publish at)
{
    struct progress *so_far = progress_of(device, at.index);

    for (; so_far->index <= at.index; so_far->index++) {
        int64_t t_ns = time_of(device, so_far->index);

        if (t_ns <= so_far->before_ns || in_frozen(device, t_ns))
            continue;
        so_far->sum += true_energy_pj(device, t_ns - device->sensor_ns, t_ns) *
                       (uint64_t)(t_ns - so_far->before_ns) / (uint64_t)device->sensor_ns;
        so_far->before_ns = t_ns;
    }
    return so_far->sum;
}

uint64_t counter_mj(const struct device *device, struct publish at)
{
    if (at.index < 0 || at.t_ns <= device->counter_from_ns)
        return 0;
    if (device->counter == COUNTER_SAMPLED && device->sensor_ns > 0)
        return (uint64_t)(sampled_pj(device, at) / PJ_PER_MJ);
    return (uint64_t)(true_energy_pj(device, device->counter_from_ns, at.t_ns) / PJ_PER_MJ);
}
