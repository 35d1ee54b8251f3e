// Tells torch for CPUs that there are two devices of type CUDA, so that tensors may say they lie there and autograd goes
// along. Nothing is computed here: see device.py. It must be loaded before torch is, which asks only once.

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace c10::impl {

constexpr DeviceIndex kDevices = 2;
thread_local DeviceIndex current = 0;

// Devices of one stream each, and events that have always happened: what autograd synchronises with.
struct SimulatedGuard final : NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override {
    return Device(DeviceType::CUDA, current);
  }
  Device exchangeDevice(Device device) const override {
    const Device before = getDevice();
    setDevice(device);
    return before;
  }
  void setDevice(Device device) const override {
    current = device.index();
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    current = device.index();
  }
  Stream getStream(Device device) const noexcept override {
    return Stream(Stream::DEFAULT, device);
  }
  Stream getNewStream(Device device, int) const override {
    return getStream(device);
  }
  Stream exchangeStream(Stream stream) const noexcept override {
    return getStream(stream.device());
  }
  DeviceIndex deviceCount() const noexcept override {
    return kDevices;
  }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
};

C10_REGISTER_GUARD_IMPL(CUDA, SimulatedGuard)

} // namespace c10::impl

namespace at {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasCUDA() const override {
    return true;
  }
  int getNumGPUs() const override {
    return c10::impl::kDevices;
  }
  DeviceIndex deviceCount() const override {
    return c10::impl::kDevices;
  }
  DeviceIndex current_device() const override {
    return c10::impl::current;
  }
  DeviceIndex getCurrentDevice() const override {
    return c10::impl::current;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  Allocator* getPinnedMemoryAllocator() const override {
    return GetCPUAllocator();
  }
  bool isPinnedPtr(const void*) const override {
    return false;
  }
};

REGISTER_CUDA_HOOKS(CUDAHooks);

} // namespace at
